"""TensorFlow Datasets: sources of images and labels, and prepared sets read with any other features.

Import it where it is needed: TensorFlow Datasets takes 1 to 2 s.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_mixer.data.splits import Source, Split, as_written

LABELS_LOOKED_AT = 1000  # per split; TFDS shuffles examples when it writes them


def tensorflow_dataset_source(name, data_dir, train_split, test_split, label="label", *, labelled=True, log=print):
    """The `Source` of a TensorFlow Datasets name; ValueError if it cannot be used, as `load_source` says."""
    builder = _builder(name, data_dir, log)
    info = builder.info
    features = dict(info.features or {})
    image = features.get("image")
    # PNG files of float32 images contain the bits of the numbers.
    usable = isinstance(image, tfds.features.Image) and np.issubdtype(image.np_dtype, np.integer)
    if not (usable and isinstance(features.get(label), tfds.features.ClassLabel)):
        found = f"Expected an Image of uint8 'image' and a ClassLabel {label!r}, got {' '.join(str(features).split())}"
        raise ValueError(f"{found} in {name!r}. Choose with --label, or pass the data by tf.data to keras_mixer.fit.")
    for split in (test_split, train_split):
        try:
            usable = info.splits[split].num_examples and (not labelled or _has_labels(builder, split, label))
        except (KeyError, ValueError):  # there is no such split
            usable = False
        if not usable:
            raise ValueError(
                f"{name!r} has no labelled images in split {split!r} (-1: unlabelled). Choose --train-split and "
                f"--test-split from {sorted(info.splits)}, or slices such as 'train[:90%]' and 'train[90%:]'."
            )
    if train_split != test_split and _overlap(*(info.splits[split] for split in (train_split, test_split))):
        raise ValueError(f"{train_split!r} and {test_split!r} of {name!r} have images in common. Choose other slices.")
    names = tuple(features[label].names)
    train, test = (prepared_split(builder, split, label, classes=len(names)) for split in (train_split, test_split))
    return Source(info.full_name if label == "label" else f"{info.full_name} ({label})", names, train, test)


def prepared_split(builder, split, label, read_label=tf.identity, classes=0) -> Split:
    """One split of a prepared data set, in order, images left encoded and not turned by EXIF orientation.

    `read_label` is applied to the feature `label`; features other than that and "image" are not even parsed. The number
    of classes is needed for training only. FileNotFoundError if the data set is not on disk.
    """
    if not builder.is_prepared():
        raise FileNotFoundError(f"{builder.info.full_name} is not in {builder.data_dir}. Prepare it by tfds build.")
    wanted = {"image": True, label: True}
    decoders = tfds.decode.PartialDecoding(wanted, decoders={"image": tfds.decode.SkipDecoding()})
    elements = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
    elements = elements.map(as_written(lambda one: {"image": one["image"], "label": read_label(one[label])}))

    def read_shard(count, index):  # opens only the files that contain the shard
        return prepared_split(builder, tfds.even_splits(split, count)[index], label, read_label, classes)

    size = builder.info.splits[split].num_examples
    return Split(size, classes, elements, lambda element: element, read_shard=read_shard, name=split)


def _builder(name, data_dir, log):
    """The builder of the newest version on disk, if there is one; otherwise the newest version is prepared."""
    if (Path(name) / "dataset_info.json").is_file():
        return tfds.builder_from_directory(name)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        versions = tfds.core.utils.version.list_all_versions(builder.data_path.parent)
        if versions and ":" not in name and not builder.is_prepared():
            log(f"Version {versions[-1]} of {name} is on disk and is used; the newest is {builder.version}.")
            return tfds.builder_from_directory(builder.data_path.parent / str(versions[-1]))
        builder.download_and_prepare()  # nothing if it is prepared
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"Data {name!r} is neither 'digits', nor an existing folder, nor a TensorFlow Datasets name. Check the "
            "path; for prepared TFDS data pass its parent folder as --data-dir."
        ) from error
    except (tf.errors.OpError, RuntimeError, AssertionError, tfds.download.DownloadError) as error:
        reason = getattr(error.__cause__ or error, "message", str(error))  # TFDS wraps errors of TensorFlow
        raise ValueError(f"{name} cannot be read or prepared: {' '.join(reason.split())}") from error
    return builder


def _overlap(*splits):
    """Whether two splits have examples in common."""
    first, second = ([(one.filename, one.skip, one.skip + one.take) for one in s.file_instructions] for s in splits)
    return any(a[0] == b[0] and max(a[1], b[1]) < min(a[2], b[2]) for a in first for b in second)


def _has_labels(builder, split, label):
    """Whether the first examples of a split have labels; -1 stands for none."""
    only_labels = tfds.decode.PartialDecoding({label: True})
    examples = builder.as_dataset(split=split, decoders=only_labels, shuffle_files=False).take(LABELS_LOOKED_AT)
    return all(labels[label].min() >= 0 for labels in examples.batch(LABELS_LOOKED_AT).as_numpy_iterator())
