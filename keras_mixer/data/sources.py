"""Where labelled images come from: bundled digits, an image folder, IDX files, a TensorFlow Datasets name.

Every source yields the same elements, `{"image": encoded bytes, "label": int64}`, so all that follows is one path.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.data.parallel import prefetch

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # what tf.io.decode_image reads; WebP from 2.20


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        size: number of examples.
        elements: `tf.data.Dataset` of light elements (paths or encoded bytes) in a fixed order; these get shuffled.
        read: maps an element to `{"image": encoded bytes, "label": int64}`.
        files: the image file of each element in order; empty when there is no file for each example.
        read_shard: `(count, index) -> Split` where a part can be read without the rest; None: elements are counted off.
    """

    size: int
    elements: tf.data.Dataset
    read: Callable
    files: tuple[Path, ...] = ()
    read_shard: Callable | None = None

    def shard(self, count, index) -> "Split":
        """The `index`-th of `count` parts of about equal size, which together hold every example once."""
        if count == 1:
            return self
        if self.read_shard is not None:
            return self.read_shard(count, index)
        size = len(range(index, self.size, count))
        return Split(size, self.elements.shard(count, index), self.read, self.files[index::count])

    def part(self, chosen) -> "Split":
        """The examples at the positions where `chosen`, `(size,)` bool, is true."""
        places = tf.constant(chosen)
        kept = self.elements.enumerate().filter(lambda position, element: places[position])
        size = int(chosen.sum())
        elements = kept.map(lambda position, element: element).apply(tf.data.experimental.assert_cardinality(size))
        files = tuple(file for file, keep in zip(self.files, chosen, strict=True) if keep) if self.files else ()
        return Split(size, elements, self.read, files)

    def labels(self) -> np.ndarray:
        """`(size,) int64`: the labels in order, without reading the images of files."""
        labels = prefetch(self.elements.map(lambda element: element["label"]))
        return np.fromiter(labels.as_numpy_iterator(), np.int64, self.size)


@dataclasses.dataclass(frozen=True)
class Source:
    """A named data set: its class names in label order and its two parts."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split


def load_source(data, data_dir=None, train_split="train", test_split="test", test_fraction=0.2):
    """Finds the data set that `data` names.

    Args:
        data: "digits", the path of an image folder or of a folder with the IDX files of MNIST or a set like it, or a
            TensorFlow Datasets name such as "cifar10". "fashion_mnist" is read from Debian's IDX files if they are
            installed and no `data_dir` is given.
        data_dir: folder with prepared TensorFlow Datasets (local or `gs://`); None for the TFDS default.
        train_split: split for training; a TFDS split string such as "train[:99%]", or a sub-folder.
        test_split: split for testing, likewise.
        test_fraction: share of each class, in (0, 1), that becomes the test part of a folder without one.

    Returns:
        A `Source`.

    Raises:
        ValueError: nothing of that name, or it holds no usable images; says what was found and what was expected.

    Source: ours.
    """
    if data == "digits":
        return _digits(test_fraction)
    from keras_mixer.data import idx  # which builds on this file

    folder = idx.FASHION_MNIST if data == "fashion_mnist" and data_dir is None else Path(data)
    if folder.is_dir() and idx.is_idx_folder(folder):
        return idx.idx_source(folder)
    folder = Path(data)
    if folder.is_dir() and not (folder / "dataset_info.json").is_file():
        return _image_folder(folder, train_split, test_split, test_fraction)
    return _tensorflow_dataset(data, data_dir, train_split, test_split)


def hold_out(source: Source, share) -> Source:
    """A part of the training examples takes the place of the test part: to choose settings without looking at it.

    Args:
        source: where the examples come from.
        share: of the training examples, in (0, 1); evenly spaced, so that a part sorted by class is drawn on evenly.

    Source: ours; the paper holds out 1 to 10 % (section 3), by the sets' own order.
    """
    size = source.train.size
    counts = np.floor(np.arange(size + 1) * share + 1e-9)  # (size + 1,): how many of the first i are held out
    held_out = np.diff(counts) > 0
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"holdout={share} of {size} training images leaves nothing to train on, or nothing to test on."
        )
    return dataclasses.replace(source, train=source.train.part(~held_out), test=source.train.part(held_out))


def stratified_split(labels, test_fraction):
    """`(n,) -> (n_train,), (n_test,)`: sorted indices, the same share of each class in both, for ever the same.

    Raises:
        ValueError: a class has a single example, or the test part would be too small to hold every class.
    """
    from sklearn.model_selection import train_test_split  # 1 s that only a split needs

    indices = np.arange(len(labels))
    try:
        train, test = train_test_split(indices, test_size=test_fraction, stratify=labels, random_state=0)
    except ValueError as error:
        raise ValueError(f"{len(labels)} images cannot be split into training and test by class: {error}") from error
    return np.sort(train), np.sort(test)


def _digits(test_fraction):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 px in 17 grey levels, as PNG bytes."""
    from sklearn.datasets import load_digits  # 0.3 s that only this source needs

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    encoded = np.array([tf.io.encode_png(image).numpy() for image in pixels])

    def part(indices):
        elements = {"image": encoded[indices], "label": labels[indices].astype(np.int64)}
        return Split(len(indices), tf.data.Dataset.from_tensor_slices(elements), read=_as_it_is)

    train, test = stratified_split(labels, test_fraction)
    return Source("digits", tuple("0123456789"), part(train), part(test))


def _image_folder(folder, train_split, test_split, test_fraction):
    """`DIR/train/CLASS/*.jpg` and `DIR/test/CLASS/*.jpg`, or `DIR/CLASS/*.jpg` split by `test_fraction`."""
    parts = [folder / train_split, folder / test_split]
    present = [part.is_dir() for part in parts]
    if any(present) and not all(present):
        missing = parts[present.index(False)]
        raise ValueError(
            f"Image folder {folder} has {parts[present.index(True)].name!r} but no {missing.name!r} beside it. Add "
            f"{missing}, or put the class folders directly into {folder} to have them split."
        )
    if all(present):
        class_names = _class_folders(parts[0])
        unknown = sorted(set(_class_folders(parts[1])) - set(class_names))
        if unknown:
            raise ValueError(f"{parts[1]} has classes that {parts[0]} lacks: {', '.join(unknown)}.")
        train, test = (_labelled_files(part, class_names) for part in parts)
    else:
        class_names = _class_folders(folder)
        files, labels = _labelled_files(folder, class_names)
        sides = stratified_split(labels, test_fraction)
        train, test = (([files[i] for i in side], [labels[i] for i in side]) for side in sides)
    return Source(folder.resolve().name, tuple(class_names), file_split(*train), file_split(*test))


def file_split(files, labels):
    """A `Split` that reads image files; `labels` are the class numbers of `files` in order."""
    paths = np.array([str(path) for path in files])
    elements = tf.data.Dataset.from_tensor_slices({"path": paths, "label": np.array(labels, np.int64)})
    return Split(len(files), elements, read=_read_file, files=tuple(files))


def _class_folders(folder):
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        found = f"only one ({names[0]})" if names else "none"
        raise ValueError(
            f"Image folder {folder} must hold two or more class folders, each with images; it holds {found}. "
            f"Expected {folder}/CLASS/*.jpg or {folder}/train/CLASS/*.jpg with {folder}/test/CLASS/*.jpg."
        )
    return names


def _labelled_files(folder, class_names):
    files, labels = [], []
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue  # a test part may lack a class
        found = sorted(
            path
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        )
        if not found:
            raise ValueError(f"Class folder {folder / name} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        files += found
        labels += [label] * len(found)
    return files, labels


def _tensorflow_dataset(name, data_dir, train_split, test_split):
    import tensorflow_datasets as tfds  # 1 to 2 s that only this source needs

    try:
        builder = tfds.builder_from_directory(name) if Path(name).is_dir() else tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        where = f" in {data_dir}" if data_dir else ""
        raise ValueError(
            f"Data {name!r} is neither 'digits', nor an existing folder, nor a TensorFlow Datasets name{where}. For an "
            "image folder check the path; for prepared TFDS data pass its parent folder as --data-dir."
        ) from error
    if not builder.is_prepared():
        builder.download_and_prepare()
    info = builder.info
    if not {"image", "label"} <= set(info.features or {}):
        raise ValueError(
            f"Data set {name!r} has no features 'image' and 'label'; it has {sorted(info.features or {})}."
        )
    label = info.features["label"]
    parts = []
    for split in (train_split, test_split):
        try:
            info.splits[split].num_examples  # noqa: B018 - raises where there is no such split
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"Data set {name!r} has no split {split!r}; it has {sorted(info.splits)}. Choose with --train-split "
                "and --test-split; slices such as 'train[:90%]' and 'train[90%:]' work too."
            ) from error
        parts.append(_prepared_split(builder, split))
    return Source(info.full_name, tuple(label.names), *parts)


def _prepared_split(builder, split):
    """A TFDS split, read in order without decoding; a part of it opens only the files that hold the part."""
    import tensorflow_datasets as tfds

    def read_shard(count, index):
        return _prepared_split(builder, tfds.even_splits(split, count)[index])

    size = builder.info.splits[split].num_examples
    elements = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False)
    return Split(size, elements, read=_image_and_label, read_shard=read_shard)


def _as_it_is(element):
    return element


def _read_file(element):
    return {"image": tf.io.read_file(element["path"]), "label": element["label"]}


def _image_and_label(element):
    return {"image": element["image"], "label": tf.cast(element["label"], tf.int64)}
