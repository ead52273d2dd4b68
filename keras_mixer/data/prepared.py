"""Prepared TensorFlow Datasets, read with any set of features. Nothing is downloaded unless requested."""

from pathlib import Path

from keras_mixer.data.sources import Split


class NotPrepared(ValueError):
    """A data set is not on disk; the message says how to get it."""


def prepared_builder(name, data_dir=None, download=False):
    """The builder of a data set whose files are on disk.

    Args:
        name: TensorFlow Datasets name, with its configuration if it has more than one.
        data_dir: folder with prepared data sets, local or `gs://`; None for the TFDS default.
        download: let TensorFlow Datasets download and prepare missing data.

    Raises:
        NotPrepared: the data set is not on disk; says whether a manual download is needed first.
    """
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


def prepared_split(builder, split, features, read) -> Split:
    """One part of a prepared data set, with images still encoded.

    Args:
        builder: of a data set on disk.
        split: a TFDS split string, such as "train[:800]".
        features: names of the features to read in addition to "image"; others are not parsed.
        read: maps an element with these features to `{"image": encoded bytes, "label": ...}`.
    """
    import tensorflow_datasets as tfds

    wanted = dict.fromkeys(("image", *features), True)
    decoders = tfds.decode.PartialDecoding(wanted, decoders={"image": tfds.decode.SkipDecoding()})
    elements = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
    size = sum(builder.info.splits[part.strip()].num_examples for part in split.split("+"))  # "train[:800]+test" too
    return Split(size, elements, read=read)


def file_names(folder, pattern):
    """Files below a folder whose names match the pattern, sorted by name.

    Raises:
        NotPrepared: no file matches.
    """
    found = sorted((path for path in Path(folder).rglob(pattern) if path.is_file()), key=lambda path: path.name)
    if not found:
        raise NotPrepared(f"{folder} contains no file {pattern}.")
    return found
