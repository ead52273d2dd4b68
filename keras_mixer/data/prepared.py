"""TensorFlow Datasets: sources of images and labels, and prepared sets read with any other features."""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.data.splits import Source, Split

LABELS_LOOKED_AT = 1000  # per split; TFDS shuffles examples when it writes them


class NotPrepared(ValueError):
    """A data set is not on disk; the message says how to get it."""


def prepared_builder(name, data_dir=None, download=False):
    """The builder of a data set whose files are on disk, downloaded if asked; raises NotPrepared."""
    import tensorflow_datasets as tfds  # takes 1 to 2 s, needed only for these data sets

    builder = tfds.builder(name, data_dir=data_dir)
    if builder.is_prepared():
        return builder
    instructions = " ".join((getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None) or "").split())
    where = f" --data_dir={data_dir}" if data_dir else ""
    command = f"tfds build {name}{where}"
    if instructions:
        raise NotPrepared(f"{name} must be prepared by hand: {instructions} Then: {command}")
    if not download:
        raise NotPrepared(f"{name} is not prepared: {command}")
    builder.download_and_prepare()
    return builder


def file_names(folder, pattern):
    """Files below a folder whose names match the pattern, sorted by name; raises NotPrepared if there are none."""
    found = sorted((path for path in Path(folder).rglob(pattern) if path.is_file()), key=lambda path: path.name)
    if not found:
        raise NotPrepared(f"{folder} contains no file {pattern}.")
    return found


def prepared_split(builder, split, features, read, classes=0) -> Split:
    """One split of a prepared TensorFlow Dataset, in order, images left encoded and not turned by EXIF orientation.

    `read` maps an element with the features "image" and `features` (others are not even parsed) to `{"image": encoded
    bytes, "label": ...}`. The number of classes is needed for training only.
    """
    import tensorflow_datasets as tfds

    wanted = dict.fromkeys(("image", *features), True)
    decoders = tfds.decode.PartialDecoding(wanted, decoders={"image": tfds.decode.SkipDecoding()})
    elements = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)

    def read_shard(count, index):  # opens only the files that contain the shard
        return prepared_split(builder, tfds.even_splits(split, count)[index], features, read, classes)

    return Split(builder.info.splits[split].num_examples, classes, elements, read, read_shard=read_shard, name=split)


def tensorflow_dataset_source(
    name, data_dir, train_split, test_split, label="label", *, labelled=True, log=print
) -> Source:
    """The data set of a TensorFlow Datasets name, downloaded and prepared if no version of it is on disk.

    Raises:
        ValueError: unknown name or split, a folder that cannot be read, no images with one label each, an empty split,
            or `labelled` and a split has images without a label.
    """
    import tensorflow_datasets as tfds  # takes 1 to 2 s, needed only here

    try:
        there = (Path(name) / "dataset_info.json").is_file()
        builder = tfds.builder_from_directory(name) if there else tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            builder = _older_version(builder, name, log) or builder
    except (tf.errors.OpError, RuntimeError) as error:  # TFDS wraps errors of TensorFlow
        reason = getattr(error.__cause__ or error, "message", str(error))
        raise ValueError(f"The folder {data_dir} cannot be read: {reason.splitlines()[0]}") from error
    except tfds.core.DatasetNotFoundError as error:
        where = f" in {data_dir}" if data_dir else ""
        raise ValueError(
            f"Data {name!r} is neither 'digits', nor an existing folder, nor a TensorFlow Datasets name{where}. For an "
            "image folder check the path; for prepared TFDS data pass its parent folder as --data-dir."
        ) from error
    if not builder.is_prepared():
        builder.download_and_prepare()
    info = builder.info
    _check_features(name, info.features or {}, label)
    for option, split in (("--test-split", test_split), ("--train-split", train_split)):
        try:
            size = info.splits[split].num_examples
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"Data set {name!r} has no split {split!r}; it has {sorted(info.splits)}. Choose with {option}; "
                "slices such as 'train[:90%]' and 'train[90%:]' work too."
            ) from error
        if not size:
            raise ValueError(f"Split {split!r} of {name!r} has no images. Choose another with {option}.")
        if labelled and not _has_labels(builder, split, label):
            used = re.split(r"\[.*?\]|\W", f"{train_split}+{test_split}")
            others = [other for other in info.splits if other not in used and _has_labels(builder, other, label)]
            advice = f"{option} {others[0]}" if others else "--train-split 'train[:90%]' --test-split 'train[90%:]'"
            raise ValueError(f"Split {split!r} of {name!r} has images without a label (-1). Use {advice}.")
    names = tuple(info.features[label].names)

    def read(element):
        return {"image": element["image"], "label": tf.cast(element[label], tf.int64)}

    train, test = (prepared_split(builder, split, (label,), read, len(names)) for split in (train_split, test_split))
    return Source(info.full_name if label == "label" else f"{info.full_name} ({label})", names, train, test)


def _older_version(builder, name, log):
    """The newest version of a data set that is on disk, unless its name contains the version that is wanted."""
    import tensorflow_datasets as tfds

    versions = Path(builder.data_path).parent / "*" / "dataset_info.json"
    others = tf.io.gfile.glob(str(versions)) if ":" not in name else []
    if not others:
        return None
    older = max((tfds.builder_from_directory(str(Path(file).parent)) for file in others), key=lambda b: b.version)
    log(f"Version {older.version} of {name} is on disk and is used; the newest is {builder.version}.")
    return older


def _check_features(name, features, label):
    """Raises ValueError unless the features of a data set are an image of integers and a class."""
    import tensorflow_datasets as tfds

    if not {"image", label} <= set(features):
        raise ValueError(
            f"Data set {name!r} has no features 'image' and {label!r}; it has {sorted(features)}. Choose with --label."
        )
    image = features["image"]
    usable = {  # PNG files of float32 images contain the bits of the numbers
        "image": isinstance(image, tfds.features.Image) and np.issubdtype(image.np_dtype, np.integer),
        label: isinstance(features[label], tfds.features.ClassLabel),
    }
    for key, expected in {"image": "an Image of uint8", label: "a ClassLabel"}.items():
        if not usable[key]:
            raise ValueError(
                f"Feature {key!r} of {name!r} is {' '.join(repr(features[key]).split())}, expected {expected}. Convert "
                "the data with tf.data and pass them to keras_mixer.fit(train=..., classes=...)."
            )


def _has_labels(builder, split, label):
    """Whether the first examples of a split have labels; -1 stands for none."""
    import tensorflow_datasets as tfds

    only_labels = tfds.decode.PartialDecoding({label: True})
    examples = builder.as_dataset(split=split, decoders=only_labels, shuffle_files=False).take(LABELS_LOOKED_AT)
    return all(labels[label].min() >= 0 for labels in examples.batch(LABELS_LOOKED_AT).as_numpy_iterator())
