"""Contestant: the training pipeline of this package, alone or feeding training steps.

Arguments: `plain` disables RandAugment and mixup, `memory` repeats one batch.
"""

import itertools
import sys
from pathlib import Path

from protocol import serve

from keras_mixer.data.batches import training_batches
from keras_mixer.data.settings import Augmentation
from keras_mixer.data.splits import file_split
from keras_mixer.inspect.speed import Case, compiled_model

CLASSES = 1000
PLAIN, MEMORY = (word in sys.argv[1:] for word in ("plain", "memory"))


def _batches(case):
    files = sorted(Path(case["folder"], "train").rglob("*.jpg"))
    augmentation = Augmentation(
        randaugment_num_ops=2, randaugment_level=case["randaugment_level"], mixup_alpha=case["mixup_alpha"]
    )
    batches = training_batches(
        file_split(files, [int(file.parent.name) for file in files]),
        classes=CLASSES,
        image_size=(case["image_size"], case["image_size"]),
        batch_size=case["batch_size"],
        seed=0,
        augmentation=Augmentation() if PLAIN else augmentation,
    )
    if MEMORY:
        return itertools.repeat(next(iter(batches)))
    batches = iter(batches)
    next(batches)
    return batches


def _prepare(case):
    if case["kind"] not in ("input", "fed"):
        raise ValueError(f"unsupported case {case['kind']!r}")
    batches = _batches(case)
    if case["kind"] == "input":

        def call():
            for _ in range(case["batches"]):
                images, _labels = next(batches)
            return float(images[0, 0, 0, 0])

        return call
    model = compiled_model(Case("train", case["variant"], case["batch_size"], case["precision"], case["image_size"]))
    return lambda: model.train_on_batch(*next(batches))


serve(_prepare)
