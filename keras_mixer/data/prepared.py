"""Prepared TensorFlow Datasets, read with any set of features. Nothing is downloaded unless requested."""

from pathlib import Path


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


def file_names(folder, pattern):
    """Files below a folder whose names match the pattern, sorted by name.

    Raises:
        NotPrepared: no file matches.
    """
    found = sorted((path for path in Path(folder).rglob(pattern) if path.is_file()), key=lambda path: path.name)
    if not found:
        raise NotPrepared(f"{folder} contains no file {pattern}.")
    return found
