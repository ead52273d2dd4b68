"""TensorFlow Datasets that lie prepared on disk, read with any features; nothing is downloaded unasked."""

from pathlib import Path

from keras_mixer.data.sources import Split


class NotPrepared(ValueError):
    """A data set is not on disk; the message says how to get it there."""


def prepared_builder(name, data_dir=None, download=False):
    """The builder of a data set whose files are on disk.

    Args:
        name: TensorFlow Datasets name, with its configuration where there are several.
        data_dir: folder with prepared data sets, local or `gs://`; None for the TFDS default.
        download: have TensorFlow Datasets fetch and prepare what is missing.

    Raises:
        NotPrepared: it is not there; says whether a download by hand is needed first.
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


def prepared_split(builder, split, features, read) -> Split:
    """One part of a prepared data set, images left encoded.

    Args:
        builder: of a data set on disk.
        split: a TFDS split string, such as "train[:800]".
        features: names of the features to read besides "image"; the rest is not even parsed.
        read: maps an element with these features to `{"image": encoded bytes, "label": ...}`.
    """
    import tensorflow_datasets as tfds

    wanted = dict.fromkeys(("image", *features), True)
    decoders = tfds.decode.PartialDecoding(wanted, decoders={"image": tfds.decode.SkipDecoding()})
    elements = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
    return Split(_size(builder, split), elements, read=read)


def _size(builder, split):
    """Examples in a split; sums such as "train[:800]+validation[:200]" too."""
    return sum(builder.info.splits[part.strip()].num_examples for part in split.split("+"))


def file_names(folder, pattern):
    """Files below a folder whose names match, sorted by name.

    Raises:
        NotPrepared: there is none.
    """
    found = sorted((path for path in Path(folder).rglob(pattern) if path.is_file()), key=lambda path: path.name)
    if not found:
        raise NotPrepared(f"{folder} holds no file {pattern}.")
    return found
