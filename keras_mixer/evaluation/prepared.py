"""TensorFlow Datasets prepared on disk; nothing is downloaded unless the caller asks for it."""

from pathlib import Path


class NotPrepared(ValueError):
    """A data set is not on disk; the message says how to get it."""


def prepared_builder(name, data_dir=None, download=False):
    """The builder of a data set whose files are on disk.

    Args:
        name: TensorFlow Datasets name, with its configuration if it has more than one.
        data_dir: folder of prepared data sets, local or `gs://`; None for the TFDS default.
        download: let TensorFlow Datasets download and prepare what is missing.

    Raises:
        NotPrepared: it is not there; says whether files must first be downloaded manually.
    """
    import tensorflow_datasets as tfds  # 1 to 2 s that only these data sets need

    builder = tfds.builder(name, data_dir=data_dir)
    if builder.is_prepared():
        return builder
    by_hand = " ".join((getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None) or "").split())
    where = f" --data_dir={data_dir}" if data_dir else ""
    command = f"tfds build {name}{where}"
    if by_hand:
        raise NotPrepared(f"{name} must be prepared by hand: {by_hand} Then: {command}")
    if not download:
        raise NotPrepared(f"{name} is not prepared: {command}")
    builder.download_and_prepare()
    return builder


def file_names(folder, pattern):
    """Files below a folder whose names match, sorted by name.

    Raises:
        NotPrepared: there is none.
    """
    found = sorted((path for path in Path(folder).rglob(pattern) if path.is_file()), key=lambda path: path.name)
    if not found:
        raise NotPrepared(f"{folder} contains no file {pattern}.")
    return found
