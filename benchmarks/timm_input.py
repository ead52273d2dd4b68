"""Contestant: timm's loader with one worker process per core; mixup during collation (`collate`) or afterwards.

Inception crop, flip, `rand-m15-n2` and mixup as in its training script, otherwise timm's defaults: each of the two
RandAugment operations is applied with probability 0.5 (`always` applies both, as in the paper's code).
"""

import itertools
import os
import sys

import torch
import without_torchvision  # noqa: F401 - before timm
from protocol import serve

import timm.data  # isort: skip

CLASSES = 1000
OPTIONS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "scale": (0.05, 1.0), "interpolation": "bilinear"}
OPTIONS |= {"color_jitter": None, "num_workers": len(os.sched_getaffinity(0)), "device": torch.device("cpu")}
COLLATE, ALWAYS = (word in sys.argv[1:] for word in ("collate", "always"))


def _batches(case):
    mixup = {"mixup_alpha": 0.5, "num_classes": CLASSES}
    side = case["image_size"]
    loader = timm.data.create_loader(
        timm.data.ImageDataset(case["folder"] + "/train"),
        (3, side, side),
        case["batch_size"],
        is_training=True,
        auto_augment="rand-m15-n2" + ("-p1.0" if ALWAYS else ""),
        collate_fn=timm.data.FastCollateMixup(**mixup) if COLLATE else None,
        **OPTIONS,
    )
    mix = None if COLLATE else timm.data.Mixup(**mixup)
    for _ in itertools.count():
        for images, labels in loader:
            yield (images, labels) if COLLATE else mix(images, labels)


def _prepare(case):
    batches = _batches(case)

    def call():
        for _ in range(case["batches"]):
            images, _labels = next(batches)
        return float(images[0, 0, 0, 0])

    return call


serve(_prepare)
