"""Finds a data set: the bundled digits, IDX files, an image folder or a TensorFlow Datasets name.

Source: yann.lecun.com/exdb/mnist for the IDX format, arXiv 1708.07747 for Fashion-MNIST.
"""

import dataclasses
import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from keras_mixer.data.image_folder import ImageFolder
from keras_mixer.data.splits import Source, pixels_split, stratified_split
from keras_mixer.data.user_data import OWN_DATA

TFDS_NAME = re.compile(r"\w+(/[\w.-]+)?(:[\w.*]+)?")
BUILT_IN = ("digits", "fashion_mnist")
IDX_FILES = "*-idx[13]-ubyte*"  # named like those of MNIST

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
FASHION_LABELS = 0x2ED6E46A  # CRC-32 of its training labels; the folder may have any name, such as torchvision's "raw"
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load_source(
    data,
    data_dir=None,
    train_split="train",
    test_split="test",
    test_fraction=0.2,
    split_seed=0,
    label="label",
    labelled=True,
    **options,
):
    """Finds a data set by path or name, as a `Source`; a path that exists wins. ValueError if it cannot be used.

    The splits are those of TFDS, such as "train[:99%]", or sub-folders. `test_fraction` of each class, chosen by the
    seed, is for testing if there is no test split; None uses all images of a folder. Images without a label (-1) are
    allowed unless `labelled`. The options are those of an `ImageFolder`: `skip_corrupt`, `log`.
    """
    if data.startswith(f"{OWN_DATA} ("):
        raise ValueError("The data were passed to keras_mixer.fit. Pass them again, or name other data with --data.")
    path, log = Path(data).expanduser(), options.get("log", print)
    if (images := image_folder(data, train_split=train_split, test_split=test_split, **options)) is not None:
        if label != "label":
            raise ValueError(f"The labels of {path} are its class folders, got {label=}. Leave it out.")
        if data in BUILT_IN:
            log(f"The folder {path.resolve()} is used, not the data set {data!r}.")
        return images.as_test_source() if test_fraction is None else images.source(test_fraction, split_seed)
    if any(path.glob(IDX_FILES)):
        source = idx_source(path)
    elif data == "digits":
        source = _digits(test_fraction or 0.2, split_seed)
    elif data == "fashion_mnist" and data_dir is None and FASHION_MNIST.is_dir():
        source = idx_source(FASHION_MNIST)
    elif path.is_dir() or (TFDS_NAME.fullmatch(data) and not path.exists()):
        from keras_mixer.data.prepared import tensorflow_dataset_source  # takes 1 to 2 s, needed only here

        return tensorflow_dataset_source(data, data_dir, train_split, test_split, label, labelled=labelled, log=log)
    else:
        raise ValueError(f"There is no folder {data}. Archives must be unpacked.")
    if label != "label" or not {train_split, test_split} <= {"train", "test"}:
        raise ValueError(f"{data} has only train, test and label, got {train_split=}, {test_split=}, {label=}.")
    return dataclasses.replace(source, train=getattr(source, train_split), test=getattr(source, test_split))


def image_folder(data, **options) -> ImageFolder | None:
    """The image folder at a path; None if it is another kind of data. The options are its fields."""
    path = Path(data).expanduser()
    if not path.is_dir() or any(path.glob(IDX_FILES)) or (path / "dataset_info.json").is_file():
        return None
    if data in BUILT_IN and (not any(path.iterdir()) or any(path.glob("**/checkpoints"))):  # the folder of their runs
        return None
    return ImageFolder(path, **options)


def data_name(data) -> str:
    """The name of a data set for readers elsewhere: of a folder, the last part of its path."""
    if data.startswith(f"{OWN_DATA} ("):
        return OWN_DATA
    if data == "digits":
        return "scikit-learn digits"
    return data if TFDS_NAME.fullmatch(data) and not Path(data).is_dir() else Path(data).resolve().name


def _digits(test_fraction, seed):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 px in 17 gray levels, as pixels."""
    from sklearn.datasets import load_digits  # takes 0.3 s, needed only here

    images, labels = load_digits(return_X_y=True)
    split = pixels_split(np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8), labels, 10)
    for_test = stratified_split(labels, test_fraction, seed)
    return Source("digits", tuple("0123456789"), split.part(~for_test), split.part(for_test))


def idx_source(folder) -> Source:
    """The data set in a folder of four IDX files, compressed or not; ValueError names a file that cannot be used.

    Fashion-MNIST is known by its labels and has its class names; those of other sets are numbers.
    """
    folder, parts = Path(folder), []
    for part in ("train", "t10k"):
        images = _read_idx(folder / f"{part}-images-idx3-ubyte", 3)
        labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise ValueError(f"{folder} has {len(images):,} images, but {len(labels):,} labels in the {part} files.")
        parts.append((images[..., None], labels))
    classes = 1 + max(int(labels.max()) for _, labels in parts)
    fashion = classes == len(CLOTHES) and zlib.crc32(parts[0][1].tobytes()) == FASHION_LABELS
    names = CLOTHES if fashion else tuple(map(str, range(classes)))
    train, test = (pixels_split(*part, classes) for part in parts)
    return Source(f"{folder.resolve().name} (IDX files in {folder})", names, train, test)


def _read_idx(path, dimensions) -> np.ndarray:
    """The unsigned bytes in an IDX file, or in the compressed one next to it."""
    if not path.exists():
        path = path.with_name(f"{path.name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        shape = np.frombuffer(content, ">u4", dimensions, offset=4)  # after a magic number
        return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is missing, truncated or damaged ({error}). Download it again.") from error
