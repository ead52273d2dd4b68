"""Contestant: the training pipeline of this package, alone or feeding training steps.

Arguments: `plain` disables RandAugment and mixup, `memory` repeats one batch.
"""

import itertools
import sys
from pathlib import Path

from protocol import serve

from keras_mixer.data.batches import training_batches
from keras_mixer.data.splits import file_split
from keras_mixer.inspect.speed import Case, compiled_model
from keras_mixer.training.recipe import Recipe

CLASSES = 1000
PLAIN, MEMORY = (word in sys.argv[1:] for word in ("plain", "memory"))


def _batches(case):
    files = sorted(Path(case["folder"], "train").rglob("*.jpg"))
    augmentation = {"randaugment_level": case["randaugment_level"], "mixup_alpha": case["mixup_alpha"]}
    recipe = Recipe(
        "input",
        data=case["folder"],
        image_size=case["image_size"],
        global_batch_size=case["batch_size"],
        **({} if PLAIN else {"randaugment_num_ops": 2, **augmentation}),
    )
    split = file_split(files, [int(file.parent.name) for file in files], CLASSES)
    batches = training_batches(split, recipe)
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
