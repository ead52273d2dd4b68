"""The 19 tasks of VTAB-1k as data: the data set, the splits and the label of each.

Source: Zhai et al. 2019 (arXiv 1910.04867), splits and labels as in google-research/task_adaptation. Data sets without
a validation split, such as Caltech101 and SVHN, use the end of their training split.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_mixer.data.prepared import prepared_builder, prepared_split
from keras_mixer.data.splits import Split

GROUPS = ("natural", "specialised", "structured")
TRAINING_EXAMPLES, VALIDATION_EXAMPLES = 800, 200
Part = tuple[str, int, int]  # TFDS split, from and to as percentages


def _label(element):
    return element["label"]


def _count_objects(element):
    """0 to 7: scenes have 3 to 10 objects."""
    return tf.size(element["objects"]["size"]) - 3


def _class_of(distance, lower_bounds):
    """The last class whose lower bound is below the distance."""
    return tf.reduce_sum(tf.cast(distance > tf.constant(lower_bounds), tf.int64)) - 1


def _nearest_object(element):
    nearest = tf.reduce_min(element["objects"]["pixel_coords"][:, 2])
    return _class_of(nearest, [0.0, 8.0, 8.5, 9.0, 9.5, 10.0])


def _nearest_vehicle(element):
    """Under 8 m, under 20 m, farther, none. Types 0, 1, 2 are car, van, truck."""
    depths = tf.boolean_mask(element["objects"]["location"][:, 2], element["objects"]["type"] < 3)
    nearest = tf.reduce_min(tf.concat([depths, [1000.0]], 0))
    return _class_of(nearest, [-100.0, 8.0, 20.0, 999.0])


def _binned(name, values, classes):
    return lambda element: element[name] * classes // values


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in the VTAB paper.
        group: one of `GROUPS`.
        data: TensorFlow Datasets name.
        classes: number of classes.
        train: its first 800 examples are the training examples.
        validation: its first 200 examples are the validation examples.
        test: all of its examples are test examples.
        small: whether images have at most 96 x 96 px; the input is then 224 px, otherwise 448 px.
        crop_and_flip: whether random crops and flips preserve the label.
        features: what the label needs in addition to the image.
        answer: maps an element to its label, in [0, classes).
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
    features: tuple[str, ...] = ("label",)
    answer: Callable = _label
    brightness: int = 1


def _parts(split, first, second, third=None):
    """Training, validation and, with `third`, test part of one split, by percentages."""
    parts = {"train": (split, 0, first), "validation": (split, first, second)}
    return parts | ({"test": (split, second, third)} if third else {})


_NINETY = _parts("train", 90, 100)
_SIXTY = _parts("train", 60, 80, 100)
_SPRITES: dict[str, Any] = {"small": True, "crop_and_flip": False, "brightness": 255, **_parts("train", 80, 90, 100)}
_NORB: dict[str, Any] = {
    "small": True,
    "crop_and_flip": False,
    "validation": ("test", 0, 50),
    "test": ("test", 50, 100),
}
_CLEVR: dict[str, Any] = {"crop_and_flip": False, "features": ("objects",), "test": ("validation", 0, 100), **_NINETY}

_ALL = (
    Task("caltech101", "natural", "caltech101", 102, **_NINETY),
    Task("cifar100", "natural", "cifar100", 100, small=True, **_NINETY),
    Task("dtd", "natural", "dtd", 47),
    Task("flowers102", "natural", "oxford_flowers102", 102),
    Task("pets", "natural", "oxford_iiit_pet", 37, **_parts("train", 80, 100)),
    Task("sun397", "natural", "sun397/tfds", 397),
    Task("svhn", "natural", "svhn_cropped", 10, small=True, crop_and_flip=False, **_NINETY),
    Task("patch_camelyon", "specialised", "patch_camelyon", 2, small=True),
    Task("eurosat", "specialised", "eurosat/rgb", 10, small=True, **_SIXTY),
    Task("resisc45", "specialised", "resisc45", 45, **_SIXTY),
    Task("retinopathy", "specialised", "diabetic_retinopathy_detection/btgraham-300", 5),
    Task("clevr_count", "structured", "clevr", 8, answer=_count_objects, **_CLEVR),
    Task("clevr_distance", "structured", "clevr", 6, answer=_nearest_object, **_CLEVR),
    Task("dmlab", "structured", "dmlab", 6, crop_and_flip=False),
    Task(
        "kitti_distance",
        "structured",
        "kitti",
        4,
        crop_and_flip=False,
        features=("objects",),
        answer=_nearest_vehicle,
    ),
    Task(
        "dsprites_position",
        "structured",
        "dsprites",
        16,
        features=("label_x_position",),
        answer=_binned("label_x_position", 32, 16),
        **_SPRITES,
    ),
    Task(
        "dsprites_orientation",
        "structured",
        "dsprites",
        16,
        features=("label_orientation",),
        answer=_binned("label_orientation", 40, 16),
        **_SPRITES,
    ),
    Task(
        "smallnorb_azimuth",
        "structured",
        "smallnorb",
        18,
        features=("label_azimuth",),
        answer=lambda element: element["label_azimuth"],
        **_NORB,
    ),
    Task(
        "smallnorb_elevation",
        "structured",
        "smallnorb",
        9,
        features=("label_elevation",),
        answer=lambda element: element["label_elevation"],
        **_NORB,
    ),
)
VTAB_TASKS: dict[str, Task] = {task.name: task for task in _ALL}


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The images of a task: 800 and 200 to choose settings, both for the final training, the test images."""

    train: Split
    validation: Split
    both: Split
    test: Split


def load_task(task: Task, data_dir=None, download=False) -> TaskData:
    """The images of a task, each read as `{"image": encoded bytes, "label": int64}`.

    Args:
        task: one of `VTAB_TASKS`.
        data_dir: folder of prepared TensorFlow Datasets; None for the TFDS default.
        download: download and prepare what is missing and needs no manual download.

    Raises:
        NotPrepared: the data set is not on disk; says how to get it.
    """
    builder = prepared_builder(task.data, data_dir, download)

    def read(element):
        image = element["image"]
        if task.brightness != 1:
            image = tf.io.encode_png(tf.io.decode_image(image) * task.brightness)
        return {"image": image, "label": tf.cast(task.answer(element), tf.int64)}

    train = _slice(builder, task.train, TRAINING_EXAMPLES)
    validation = _slice(builder, task.validation, VALIDATION_EXAMPLES)
    splits = (train, validation, f"{train}+{validation}", _slice(builder, task.test))
    return TaskData(*(prepared_split(builder, split, task.features, read, task.classes) for split in splits))


def _slice(builder, part: Part, count=None):
    """`("train", 90, 100) -> "train[900:1000]"`; at most its first `count` examples."""
    split, first, last = part
    size = builder.info.splits[split].num_examples
    begin, end = round(size * first / 100), round(size * last / 100)
    return f"{split}[{begin}:{end if count is None else min(end, begin + count)}]"
