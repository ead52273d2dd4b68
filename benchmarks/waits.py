"""What a user waits for: seconds from the start of a process to its result, for this package and for timm.

    python benchmarks/waits.py --timm PYTHON --output benchmarks/results/NAME.json

PYTHON is the interpreter of an environment with torch, timm, torchvision, onnx, onnxscript and onnxruntime. Every stage
is a new process, imports included; the two take turns, and the table shows the median of all rounds. `--install torch
timm` also measures installations into new environments, which download packages.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contestants import FOLDER, record
from photographs import write_photographs
from run import environments, processor

from keras_mixer.cores import available_cores

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
    """Seconds of a command from start to end.

    Raises:
        RuntimeError: it failed; the message is the end of its output.
    """
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
        found = {name: [] for name in contestants}
        for round_ in range(options.rounds):
            for name, (python, script) in contestants.items():
                results = folder / name / f"round-{round_}"
                results.mkdir(parents=True, exist_ok=True)
                found[name].append(seconds_of([python, str(FOLDER / script), stage, str(folder), str(results)]))
        yield [_row(stage, name, seconds) for name, seconds in found.items()]


def installation(options, folder):
    """Yields the rows of an installation into a new environment: seconds and size."""
    rows = []
    packages = {"keras_mixer": [f"{FOLDER.parent}[cpu]"]} | ({"timm": options.install} if options.install else {})
    for name, wanted in packages.items():
        environment = folder / f"environment-{name}"
        seconds = seconds_of([sys.executable, "-m", "venv", str(environment)])
        seconds += seconds_of([str(environment / "bin" / "python"), "-m", "pip", "install", *wanted])
        size = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
        rows.append(_row("install", name, [seconds]) | {"bytes": size})
    yield rows


def _row(stage, name, seconds):
    return {"stage": stage, "contestant": name, "seconds": statistics.median(seconds), "rounds": seconds}


def show(rows):
    """Prints one line per row."""
    for row in rows:
        size = f"  {row['bytes'] / 1e6:,.0f} MB" if "bytes" in row else ""
        what = STAGES.get(row["stage"], row["stage"])
        print(f"{what:65} {row['contestant']:12} {row['seconds']:7.1f} s{size}", flush=True)


def main():
    """Runs all stages and prints one row per contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", help="Python of an environment with torch, timm, torchvision and ONNX Runtime")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--install", nargs="*", metavar="PACKAGE", help="also installation; these packages for timm")
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    parser.set_defaults(flax=None, kecam=None)  # `environments` asks for all peers of run.py
    options = parser.parse_args()
    if options.output and options.output.exists():
        parser.error(f"{options.output} exists already; remove it or choose another name.")
    content = {"processor": processor(), "cores": available_cores(), "photographs": PHOTOGRAPHS, "rows": []}
    if options.output:
        content["environments"] = environments(options)
    with tempfile.TemporaryDirectory() as folder:
        if options.install is not None:
            record(content, installation(options, Path(folder)), show, options.output)
        record(content, stages(options, Path(folder)), show, options.output)


if __name__ == "__main__":
    main()
