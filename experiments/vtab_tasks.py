"""The 19 tasks of VTAB-1k as data: the data set, the splits and the label of each.

Source: Zhai et al. 2019 (arXiv 1910.04867), splits and labels as in google-research/task_adaptation. Data sets without
a validation split, such as Caltech101 and SVHN, use the end of their training split.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

GROUPS = ("natural", "specialised", "structured")
TRAINING_EXAMPLES, VALIDATION_EXAMPLES = 800, 200
Part = tuple[str, int, int]  # TFDS split, from and to as percentages


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in the VTAB paper.
        group: one of `GROUPS`.
        data: TensorFlow Datasets name.
        classes: number of classes.
        train: where its first 800 examples are the training examples; validation likewise, with 200.
        test: all of its examples are test examples.
        small: whether images have at most 96 x 96 px; the input is then 224 px, otherwise 448 px.
        crop_and_flip: whether random crops and flips preserve the label.
        feature: what the label is made of.
        answer: maps this feature to the label, in [0, classes).
        brightness: factor applied to the pixels; dSprites stores 0 and 1.
    """

    name: str
    group: str
    data: str
    classes: int
    train: Part = ("train", 0, 100)
    validation: Part = ("validation", 0, 100)
    test: Part = ("test", 0, 100)
    small: bool = False
    crop_and_flip: bool = True
    feature: str = "label"
    answer: Callable = lambda label: label
    brightness: int = 1

    def splits(self, sizes):
        """`{"train": "train[0:800]", ...}`, from the number of examples of each TFDS split; "both" is for the test."""

        def part(split, first, last, most=None):
            begin, end = round(sizes[split] * first / 100), round(sizes[split] * last / 100)
            return f"{split}[{begin}:{min(end, begin + most) if most else end}]"

        train, validation = part(*self.train, TRAINING_EXAMPLES), part(*self.validation, VALIDATION_EXAMPLES)
        return {"train": train, "validation": validation, "both": f"{train}+{validation}", "test": part(*self.test)}

    def example(self, element):
        """`(encoded image, label)` of an element of the data set."""
        image = element["image"]
        if self.brightness != 1:
            image = tf.io.encode_png(tf.io.decode_image(image) * self.brightness)
        return image, tf.cast(self.answer(element[self.feature]), tf.int64)


def _class_of(distance, lower_bounds):
    """The last class whose lower bound is below the distance."""
    return tf.reduce_sum(tf.cast(distance > tf.constant(lower_bounds), tf.int64)) - 1


def _count_objects(objects):
    """0 to 7: scenes have 3 to 10 objects."""
    return tf.size(objects["size"]) - 3


def _nearest_object(objects):
    return _class_of(tf.reduce_min(objects["pixel_coords"][:, 2]), [0.0, 8.0, 8.5, 9.0, 9.5, 10.0])


def _nearest_vehicle(objects):
    """Under 8 m, under 20 m, farther, none. Types 0, 1, 2 are car, van, truck."""
    depths = tf.boolean_mask(objects["location"][:, 2], objects["type"] < 3)
    return _class_of(tf.reduce_min(tf.concat([depths, [1000.0]], 0)), [-100.0, 8.0, 20.0, 999.0])


def _parts(first, second, third=None):
    """Training, validation and, with `third`, test part of the training split, by percentages."""
    parts: dict[str, Any] = {"train": ("train", 0, first), "validation": ("train", first, second)}
    return parts | ({"test": ("train", second, third)} if third else {})


def _sprites(values):
    """The parts of dSprites with `values` values of a factor, in 16 classes."""
    answer = {"answer": lambda label: label * 16 // values}
    return {"small": True, "crop_and_flip": False, "brightness": 255, **answer, **_parts(80, 90, 100)}


_NINETY, _SIXTY = _parts(90, 100), _parts(60, 80, 100)
_HALVES: dict[str, Any] = {"validation": ("test", 0, 50), "test": ("test", 50, 100)}
_NORB: dict[str, Any] = {"small": True, "crop_and_flip": False} | _HALVES
_CLEVR: dict[str, Any] = {"crop_and_flip": False, "feature": "objects", "test": ("validation", 0, 100)} | _NINETY
_KITTI: dict[str, Any] = {"crop_and_flip": False, "feature": "objects"}

_ALL = (
    Task("caltech101", "natural", "caltech101", 102, **_NINETY),
    Task("cifar100", "natural", "cifar100", 100, small=True, **_NINETY),
    Task("dtd", "natural", "dtd", 47),
    Task("flowers102", "natural", "oxford_flowers102", 102),
    Task("pets", "natural", "oxford_iiit_pet", 37, **_parts(80, 100)),
    Task("sun397", "natural", "sun397/tfds", 397),
    Task("svhn", "natural", "svhn_cropped", 10, small=True, crop_and_flip=False, **_NINETY),
    Task("patch_camelyon", "specialised", "patch_camelyon", 2, small=True),
    Task("eurosat", "specialised", "eurosat/rgb", 10, small=True, **_SIXTY),
    Task("resisc45", "specialised", "resisc45", 45, **_SIXTY),
    Task("retinopathy", "specialised", "diabetic_retinopathy_detection/btgraham-300", 5),
    Task("clevr_count", "structured", "clevr", 8, answer=_count_objects, **_CLEVR),
    Task("clevr_distance", "structured", "clevr", 6, answer=_nearest_object, **_CLEVR),
    Task("dmlab", "structured", "dmlab", 6, crop_and_flip=False),
    Task("kitti_distance", "structured", "kitti", 4, answer=_nearest_vehicle, **_KITTI),
    Task("dsprites_position", "structured", "dsprites", 16, feature="label_x_position", **_sprites(32)),
    Task("dsprites_orientation", "structured", "dsprites", 16, feature="label_orientation", **_sprites(40)),
    Task("smallnorb_azimuth", "structured", "smallnorb", 18, feature="label_azimuth", **_NORB),
    Task("smallnorb_elevation", "structured", "smallnorb", 9, feature="label_elevation", **_NORB),
)
VTAB_TASKS: dict[str, Task] = {task.name: task for task in _ALL}
