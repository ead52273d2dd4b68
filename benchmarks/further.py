"""Further kinds of `run.py`: litert, input, memory, growth. Each function returns rows."""

import dataclasses
import sys
import tempfile
from pathlib import Path

from contestants import OURS, Contestant, competed, failed, in_turn, middle, peers
from photographs import write_photographs
from speed import Case

PHOTOGRAPHS = 512


def _case(kind, variant, batch_size, image_size=224, **more):
    return dataclasses.asdict(Case("train", variant, batch_size, "float32", image_size)) | {"kind": kind} | more


def _rows(case, times, images):
    """One row per contestant."""
    rows = []
    for name, calls in times.items():
        median, spread = middle(calls.seconds)
        row = {**case, "contestant": name, "seconds": median, "spread": spread, "calls": len(calls.seconds)}
        row |= {"images_per_second": images / median}
        rows.append(row | {"images_per_cpu_second": images * len(calls.seconds) / calls.cpu_seconds})
    return rows


def litert(options):
    """LiteRT files on two threads against the Keras model and timm, one image at a time, float32 pixels."""
    formats = ("float32", "dynamic_int8", "int8", "float16")
    specifications = [(f"LiteRT {name}", sys.executable, "ours.py", "litert", name) for name in formats]
    specifications += [OURS, *(peer for peer in peers(options) if "timm" in peer[0])]
    rows = []
    for variant in options.variants:
        case = _case("forward", variant, 1, options.image_size)
        rows += _rows(case | {"kind": "litert"}, competed(specifications, case, options.seconds), images=1)
    return rows


def inputs(options):
    """The training pipeline against timm's loader, on the same files and cores."""

    def ours(name, *words):
        return (name, sys.executable, "ours_input.py", *words)

    specifications = [ours("keras_mixer"), ours("keras_mixer, crop and flip only", "plain")]
    if options.timm:
        loaders = {"": (), ", mixup in its workers": ("collate",), ", all operations applied": ("collate", "always")}
        specifications += [(f"timm{text}", options.timm, "timm_input.py", *word) for text, word in loaders.items()]
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = write_photographs(Path(folder), PHOTOGRAPHS)
        case = {"kind": "input", "folder": folder, "image_size": options.image_size, "batch_size": 64, "batches": 4}
        times = competed(specifications, case, options.seconds, stale=True)
        rows = _rows(case | {"folder": "photographs", "bytes_of_a_file": mean_bytes}, times, images=64 * 4)
        fed = _case("fed", "S/32", 64, options.image_size, folder=folder)
        sources = [
            ours("S/32 training, fed by one batch in memory", "memory"),
            ours("S/32 training, fed by the pipeline"),
        ]
        times = competed(sources, fed, options.seconds, stale=True)
    return rows + _rows(fed | {"folder": "photographs"}, times, images=64)


def memory(options):
    """Peak memory of a training step on top of the built model, each in a new process, and its time."""
    rows = []
    for variant, batch_size in (("S/16", 16), ("B/16", 8)):
        case = _case("train", variant, batch_size, options.image_size)
        ours = [OURS, ("keras_mixer rematerialized", sys.executable, "ours.py", "rematerialize")]
        bytes_of = {}
        for specification in ours + peers(options):  # one at a time, because each is large
            with Contestant(*specification) as contestant:
                answer = contestant.ask(do="memory", case=case)
            if not failed(contestant, answer):
                bytes_of[contestant.name] = answer["bytes"]
        timed = {
            row["contestant"]: row for row in _rows(case, competed(ours, case, options.seconds), images=batch_size)
        }
        for name, count in bytes_of.items():
            row = {**case, "contestant": name, "seconds": None, "calls": 0} | timed.get(name, {})
            rows.append(row | {"kind": "memory", "bytes": count})
    return rows


def growth(options):
    """Time of a forward pass and of a training step against image size, batch size and depth."""
    changes = [{"image_size": side} for side in (96, 224, 448, 672)]
    changes += [{"batch_size": size} for size in (1, 2, 4, 16, 32)]
    changes += [{"num_blocks": count} for count in (4, 16)]
    rows = []
    for kind in ("forward", "train"):
        for change in changes:
            with Contestant(*OURS) as contestant:
                case = _case(kind, "S/32", 8) | change
                times = in_turn([contestant], case, options.seconds)
            rows += _rows(case | {"kind": "growth", "training": kind == "train"}, times, images=case["batch_size"])
    return rows


FURTHER = {"litert": litert, "input": inputs, "memory": memory, "growth": growth}
