"""What a user waits for: seconds from the start of a process to its result, for this package and for timm.

    python benchmarks/waits.py --timm PYTHON --output benchmarks/results/NAME.json

PYTHON is the interpreter of an environment with torch, timm, torchvision, onnx, onnxscript and onnxruntime. Every stage
is a new process, imports included; the two take turns, and the table shows the median of all rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contestants import FOLDER, OURS, peers, record
from photographs import write_photographs

PHOTOGRAPHS = {"train": 1000, "test": 200}
STAGES = {
    "import": "import the package",
    "build": "B/16 with random weights",
    "first_step": "first training step of B/16, batch 16",
    "epoch": "S/32 trained on 1,000 photographs, tested on 200, and saved",
    "evaluation": "evaluation of the saved model on 200 photographs",
    "export": "the saved model exported: SavedModel and ONNX",
    "first_answer": "first answer of the export for one photograph",
}


def seconds_of(command):
    """Seconds of a command from start to end; raises RuntimeError with the end of its output if it fails."""
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return time.perf_counter() - began


def stages(options, folder):
    """Yields the rows of each stage; later stages read the files of earlier ones."""
    contestants = {"keras_mixer": (sys.executable, "ours_waits.py")}
    if options.timm:
        contestants["timm"] = (options.timm, "timm_waits.py")
    for part, count in PHOTOGRAPHS.items():
        write_photographs(folder, count, part)
    for stage in options.stages:
        print(STAGES[stage])
        found = {name: [] for name in contestants}
        for round_ in range(options.rounds):
            for name, (python, script) in contestants.items():
                results = folder / name / f"round-{round_}"
                results.mkdir(parents=True, exist_ok=True)
                found[name].append(seconds_of([python, str(FOLDER / script), stage, str(folder), str(results)]))
        medians = {name: {"seconds": statistics.median(times), "rounds": times} for name, times in found.items()}
        yield [{"stage": stage, "contestant": name} | row for name, row in medians.items()]


def main():
    """Runs all stages and prints one row per contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", help="Python of an environment with torch, timm, torchvision and ONNX Runtime")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    parser.set_defaults(flax=None)  # the other peer of run.py
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record(stages(options, Path(folder)), options.output, [OURS, *peers(options)])


if __name__ == "__main__":
    main()
