"""Further cases of `run.py`: startup, LiteRT, input, memory, distribution, growth. Each function returns rows."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from contestants import ROUNDS, Calls, Contestant, failed, in_turn, middle, peers
from photographs import write_photographs

from keras_mixer.inspect.speed import Case

OURS = ("keras_mixer", sys.executable, "ours.py")
IMPORTS = """
import json, time
times = [time.perf_counter()]
import keras
times.append(time.perf_counter())
import keras_mixer
times.append(time.perf_counter())
print(json.dumps(times))
"""
PHOTOGRAPHS = 512
STEPS_OF_A_CALL = 4  # as in `ours_wrapped.py`
ROUNDS_OF_WRAPPERS = 10


def _case(kind, variant, batch_size, image_size=224, **more):
    return dataclasses.asdict(Case("train", variant, batch_size, "float32", image_size)) | {"kind": kind} | more


def _rows(case, times, scale=1.0, images=0):
    """One row per contestant; `scale` converts the seconds of a call to those of the unit in the row."""
    rows = []
    for name, calls in times.items():
        median, spread = middle([value * scale for value in calls.seconds])
        row = {**case, "contestant": name, "seconds": median, "spread": spread, "calls": len(calls.seconds)}
        if images:
            row["images_per_second"] = images / median
            row["images_per_cpu_second"] = images * len(calls.seconds) / scale / calls.cpu_seconds
        rows.append(row)
    return rows


def _competed(specifications, case, seconds, **how):
    """`in_turn` with processes that are started and stopped for it."""
    contestants = [Contestant(*specification[:-1], environment=specification[-1]) for specification in specifications]
    times = in_turn(contestants, case, seconds, **how)
    for contestant in contestants:
        contestant.stop()
    return times


def start(options):
    """Import time on top of `import keras`; then, in new processes, building a model and its first training step."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "TF_CPP_MIN_LOG_LEVEL": "2"}
    imports = {"import keras": [], "import keras_mixer after it": []}
    for _ in range(options.repeats + 1):
        out = subprocess.run(
            [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, env=environment
        ).stdout
        before, between, after = json.loads(out.splitlines()[-1])
        imports["import keras"].append(between - before)
        imports["import keras_mixer after it"].append(after - between)
    rows = _rows(
        {"kind": "start"}, {name: Calls(values[1:]) for name, values in imports.items()}
    )  # the first import reads from disk
    case = _case("train", options.start_variant, 16, options.image_size)
    times = {}
    for _ in range(options.repeats):
        for name, *specification in [OURS, *peers(options)]:
            contestant = Contestant(name, *specification)
            contestant.ask(do="hello")
            answer = contestant.ask(do="first", case=case)
            contestant.stop()
            if not failed(contestant, answer):
                times.setdefault(f"{name}: model and optimizer built", Calls([])).seconds.append(answer["prepare"])
                times.setdefault(f"{name}: first training step", Calls([])).seconds.append(answer["first"])
    return rows + _rows(case | {"kind": "start"}, times)


def litert(options):
    """LiteRT files on two threads against the Keras model and timm, one image at a time, float32 pixels."""
    formats = ("float32", "dynamic_int8", "int8", "float16")
    specifications = [(f"LiteRT {name}", sys.executable, "ours_litert.py", name, {}) for name in formats]
    specifications += [(*OURS, {})]
    specifications += [(*peer, {}) for peer in peers(options) if "timm" in peer[0]]
    rows = []
    for variant in options.variants:
        case = _case("forward", variant, 1, options.image_size)
        rows += _rows(case | {"kind": "litert"}, _competed(specifications, case, options.seconds), images=1)
    return rows


def inputs(options):
    """The training pipeline against timm's loader, on the same files and cores."""
    words = {"": (), ", crop and flip only": ("plain",)}
    specifications = [
        (f"keras_mixer{text}", sys.executable, "ours_input.py", *word, {}) for text, word in words.items()
    ]
    if options.timm:
        loaders = {"": (), ", mixup in its workers": ("collate",), ", all operations applied": ("collate", "always")}
        specifications += [(f"timm{text}", options.timm, "timm_input.py", *word, {}) for text, word in loaders.items()]
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = write_photographs(Path(folder), PHOTOGRAPHS)
        case = {"kind": "input", "folder": folder, "image_size": options.image_size, "batch_size": 64, "batches": 4}
        case |= {"randaugment_level": 15.0, "mixup_alpha": 0.5}
        times = _competed(specifications, case, options.seconds, stale=True)
        rows = _rows(case | {"folder": "photographs", "bytes_of_a_file": mean_bytes}, times, images=64 * 4)
        fed = _case("fed", "S/32", 64, options.image_size, folder=folder, randaugment_level=15.0, mixup_alpha=0.5)
        sources = {"one batch in memory": ("memory",), "the pipeline": ()}
        specifications = [
            (f"S/32 training, fed by {text}", sys.executable, "ours_input.py", *word, {})
            for text, word in sources.items()
        ]
        times = _competed(specifications, fed, options.seconds, stale=True)
    return rows + _rows(fed | {"folder": "photographs"}, times, images=64)


def memory(options):
    """Peak memory of a training step on top of the built model, each in a new process, and its time."""
    rows = []
    for variant, batch_size in (("S/16", 16), ("B/16", 8)):
        case = _case("train", variant, batch_size, options.image_size)
        specifications = [OURS, ("keras_mixer rematerialized", sys.executable, "ours.py", "rematerialize")]
        bytes_of = {}
        for name, *specification in specifications + peers(options):  # one at a time, because each is large
            contestant = Contestant(name, *specification)
            answer = contestant.ask(do="memory", case=case)
            if not failed(contestant, answer):
                bytes_of[name] = answer["bytes"]
            contestant.stop()
        times = _competed([(*specification, {}) for specification in specifications], case, options.seconds)
        timed = {row["contestant"]: row for row in _rows(case, times, images=batch_size)}
        for name, count in bytes_of.items():
            row = {**case, "contestant": name, "seconds": None, "calls": 0} | timed.get(name, {})
            rows.append(row | {"kind": "memory", "bytes": count})
    return rows


def wrapper(options):
    """The cost of distribution: a plain step, a distributed step on one device, and one on two virtual devices.

    Contestants take turns after every call; `of_none` is the median ratio of neighbouring calls, which is robust
    against changes in the speed of the machine.
    """
    rows = []
    for backend in ("tensorflow", "jax"):
        case = _case("train", "S/32", 16, options.image_size)
        environment = {"KERAS_BACKEND": backend}
        if backend == "jax":
            environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        specifications = [
            (f"{backend}: {word}", sys.executable, "ours_wrapped.py", word, environment)
            for word in ("none", "one", "two")
        ]
        times = _competed(specifications, case, 0, rounds=ROUNDS_OF_WRAPPERS, fewest=1)
        none = times[f"{backend}: none"].seconds
        case |= {"kind": "wrapper", "backend": backend}
        for row in _rows(case, times, scale=1 / STEPS_OF_A_CALL, images=case["batch_size"]):
            ratios = [own / plain for own, plain in zip(times[row["contestant"]].seconds, none, strict=True)]
            rows.append(row | {"of_none": middle(ratios)[0]})
    return rows


def growth(options):
    """Time of a forward pass and of a training step against image size, batch size and depth."""
    plain = {"kind": "growth", "image_size": 224, "batch_size": 8, "blocks": 8}
    changes = [{"image_size": side} for side in (96, 224, 448, 672)]
    changes += [{"batch_size": size} for size in (1, 2, 4, 16, 32)]
    changes += [{"blocks": count} for count in (4, 16)]
    cases = [plain | change | {"training": training} for training in (False, True) for change in changes]
    found = [Calls([]) for _ in cases]
    contestant = Contestant("keras_mixer", sys.executable, "ours_growth.py")
    for _ in range(ROUNDS):
        for case, calls in zip(cases, found, strict=True):  # one process; every case is rebuilt
            if failed(contestant, contestant.ask(do="prepare", case=case)):
                continue
            answer = contestant.ask(do="time", seconds=options.seconds / ROUNDS)
            calls.seconds += answer["seconds"]
            calls.cpu_seconds += answer["cpu_seconds"]
    contestant.stop()
    each = [(case, calls) for case, calls in zip(cases, found, strict=True) if calls.seconds]
    return [row for case, calls in each for row in _rows(case, {"keras_mixer": calls}, images=case["batch_size"])]


FURTHER = {"start": start, "litert": litert, "input": inputs, "memory": memory, "wrapper": wrapper, "growth": growth}
