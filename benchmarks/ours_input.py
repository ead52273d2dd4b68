"""Contestant: the training pipeline of this package, alone or feeding training steps.

Arguments: `plain` disables RandAugment and mixup, `memory` repeats one batch.
"""

import dataclasses
import itertools
import sys

from protocol import serve
from speed import CLASSES, Case, compiled_model

# The training pipeline has no public name.
from keras_mixer.data.batches import training_batches
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.recipes import resolve

PLAIN, MEMORY = (word in sys.argv[1:] for word in ("plain", "memory"))


def _batches(case):
    """Batches of a folder in two classes; for the training step, with labels of 1000."""
    changes = {
        "data": f"{case['folder']}/train",
        "image_size": case["image_size"],
        "global_batch_size": case["batch_size"],
    }
    if not PLAIN:
        changes |= {"randaugment_num_ops": 2, "randaugment_level": 15.0, "mixup_alpha": 0.5}
    recipe = resolve("finetune", **changes)
    split = dataclasses.replace(load_recipe_source(recipe, log=lambda line: None).train, classes=CLASSES)
    batches = iter(training_batches(split, recipe))
    first = next(batches)
    return itertools.repeat(first) if MEMORY else batches


def _prepare(case):
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
