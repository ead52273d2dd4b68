"""The three test sets of an ImageNet-1k classifier: validation labels, ReaL, ImageNet-V2.

Source: ReaL: Beyer et al. 2020 (arXiv 2006.07159). ImageNet-V2: Recht et al. 2019 (arXiv 1902.10811).
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.data.prepared import NotPrepared, file_names, prepared_builder, prepared_split
from keras_mixer.data.splits import Split, file_split
from keras_mixer.evaluation.outputs import NO_GUESS, OutputCheck, describe_outputs, guesses, outputs_of

CLASSES = 1000
V2_VARIANTS = ("matched-frequency", "threshold-0.7", "topimages")
VALIDATION_FILES = "ILSVRC2012_val_*.JPEG"


@dataclasses.dataclass(frozen=True)
class RealEvaluation:
    """The result of `evaluate_real`.

    Attributes:
        examples: images with at least one label; only these count.
        left_out: images without labels.
        top1: fraction of `examples` whose most probable class is one of their labels; ties and NaN as in `Evaluation`.
        non_finite: number of images, with or without labels, with an output that is NaN or infinite.
        constant: whether there are at least two images and all have the same output, as with an untrained model.
    """

    examples: int
    left_out: int
    top1: float
    non_finite: int
    constant: bool

    def remarks(self) -> list[str]:
        """One sentence per problem with the outputs (not finite, constant); empty for a sound model."""
        return describe_outputs(self.examples + self.left_out, self.non_finite, self.constant)


def evaluate_real(model, dataset, *, progress=False) -> RealEvaluation:
    """Accuracy with multiple correct labels per image; images without labels are left out.

    Args:
        model: maps images `(B, H, W, channels)` to probabilities `(B, classes)`.
        dataset: `(images, allowed)` batches; allowed `(B, classes)` is true for each correct label.
        progress: show a progress bar on standard error.

    Returns:
        A `RealEvaluation`.

    Raises:
        ValueError: no image has a label.

    Source: section 4 of arXiv 2006.07159.
    """
    correct, examples = 0, 0
    check = OutputCheck()
    for outputs, allowed in outputs_of(model, dataset, "evaluating", progress):
        allowed = allowed.astype(bool)
        scores = np.asarray(outputs, np.float64)
        guessed = guesses(scores)
        correct += int((allowed[np.arange(len(guessed)), guessed] & (guessed != NO_GUESS)).sum())
        examples += int(allowed.any(1).sum())
        check.add(scores)
    if not examples:
        raise ValueError("No image of the data set has a label.")
    return RealEvaluation(examples, check.images - examples, correct / examples, check.non_finite, check.constant)


def validation_split(data_dir=None) -> Split:
    """The validation images of TFDS `imagenet2012`, each with one label.

    Raises:
        NotPrepared: the data set is not on disk.
    """
    builder = prepared_builder("imagenet2012", data_dir)
    return prepared_split(builder, "validation", ("label",), _with_label)


def real_split(data_dir=None, label_file=None, images=None) -> Split:
    """The validation images with their sets of correct labels, as `(1000,) bool`.

    Args:
        data_dir: folder with prepared TensorFlow Datasets.
        label_file: the authors' `real.json`: a list of label lists in the order of the validation files. None uses
            TFDS `imagenet2012_real`.
        images: with `label_file`, a folder with the files `ILSVRC2012_val_00000001.JPEG`, ... at any depth; None uses
            the images of TFDS `imagenet2012`.

    Raises:
        NotPrepared: a data set or file is not on disk.
        ValueError: the file is not such a list, or has no entry for an image.
    """
    if label_file is None:
        builder = prepared_builder("imagenet2012_real", data_dir)
        return prepared_split(builder, "validation", ("real_label",), _with_labels)
    sets = _read_label_file(label_file)
    if images is None:
        builder = prepared_builder("imagenet2012", data_dir)
        _check_numbers(builder.info.splits["validation"].num_examples, sets, label_file)
        return prepared_split(builder, "validation", ("file_name",), lambda e: _labels_by_name(e, sets))
    paths = file_names(images, VALIDATION_FILES)
    numbers = [_number(path) for path in paths]
    _check_numbers(max(numbers), sets, label_file)
    files = file_split(paths, numbers, CLASSES)

    def read(element):
        example = files.read(element)
        return {"image": example["image"], "label": _multi_hot(sets[example["label"] - 1])}

    return dataclasses.replace(files, read=read)


def v2_split(variant="matched-frequency", data_dir=None, folder=None) -> Split:
    """ImageNet-V2 in one of its three selections.

    Args:
        variant: one of `V2_VARIANTS`.
        data_dir: folder with prepared TensorFlow Datasets.
        folder: the authors' original folder, with images in `FOLDER/0` to `FOLDER/999`; None uses TFDS `imagenet_v2`.

    Raises:
        NotPrepared: the data set is not on disk.
        ValueError: the name of a sub-folder is not a class number.
    """
    if folder is None:
        builder = prepared_builder(f"imagenet_v2/{variant}", data_dir)
        return prepared_split(builder, "test", ("label",), _with_label)
    paths = file_names(folder, "*/*.jp*g")
    try:
        labels = [int(path.parent.name) for path in paths]  # not by position: sorted as text, "10" comes before "2"
    except ValueError as error:
        raise ValueError(f"Expected folders 0 to {CLASSES - 1} in {folder}: {error}") from error
    return file_split(paths, labels, CLASSES)


def check_classes(model):
    """Raises ValueError unless the model has the 1000 classes of ImageNet."""
    if model.output_shape[-1] != CLASSES:
        raise ValueError(f"Expected a model with the {CLASSES} classes of ImageNet-1k, got {model.output_shape[-1]}.")


def _read_label_file(path):
    try:
        sets = json.loads(Path(path).read_text(encoding="utf-8"))
        ragged = tf.ragged.constant(sets, dtype=tf.int64, ragged_rank=1)
    except FileNotFoundError as error:
        raise NotPrepared(
            f"There is no label file {path}. Get real.json from google-research/reassessed-imagenet."
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"Expected {path} to be a JSON list of lists of class numbers: {error}") from error
    if sets and (ragged.flat_values.numpy() >= CLASSES).any():
        raise ValueError(f"{path} has class numbers above {CLASSES - 1}.")
    return ragged


def _check_numbers(largest, sets, path):
    if largest > sets.nrows():
        raise ValueError(f"{path} has {int(sets.nrows())} entries, but there is a validation image number {largest}.")


def _number(path):
    return int(path.stem.rsplit("_", 1)[1])


def _with_label(element):
    return {"image": element["image"], "label": element["label"]}


def _with_labels(element):
    return {"image": element["image"], "label": _multi_hot(element["real_label"])}


def _labels_by_name(element, sets):
    number = tf.strings.to_number(tf.strings.regex_replace(element["file_name"], r".*_(\d+)\.\w+$", r"\1"), tf.int64)
    return {"image": element["image"], "label": _multi_hot(sets[number - 1])}


def _multi_hot(labels):
    """`(n,) int64 -> (1000,) bool`."""
    return tf.reduce_any(labels[:, None] == tf.range(CLASSES, dtype=tf.int64), axis=0)
