"""Image sets in MNIST's IDX format, read as published, such as MNIST and Fashion-MNIST.

Source: yann.lecun.com/exdb/mnist (format); arXiv 1708.07747 (Fashion-MNIST).
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from keras_mixer.data.splits import Source, pixels_split

MAGIC = {"images-idx3": 0x0803, "labels-idx1": 0x0801}  # unsigned bytes in three dimensions, in one

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
FASHION_LABELS = 0x2ED6E46A  # CRC-32 of its training labels; the folder may have any name, such as torchvision's "raw"
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def is_idx_folder(folder) -> bool:
    """Whether a folder contains files named like those of MNIST."""
    return any(Path(folder).glob("*-idx[13]-ubyte*"))


def idx_source(folder) -> Source:
    """The data set in a folder of four IDX files, compressed or not; ValueError names a file that cannot be used.

    Fashion-MNIST is known by its labels and has its class names; those of other sets are numbers.
    """
    folder, parts = Path(folder), []
    for part in ("train", "t10k"):
        (images, path), (labels, of_labels) = (_read(folder, f"{part}-{kind}-ubyte", MAGIC[kind]) for kind in MAGIC)
        if len(images) != len(labels) or not len(labels):
            raise ValueError(f"{path} has {len(images):,} images, but {of_labels} has {len(labels):,} labels.")
        parts.append((images[..., None], labels))
    classes = 1 + max(int(labels.max()) for _, labels in parts)
    fashion = classes == len(CLOTHES) and zlib.crc32(parts[0][1].tobytes()) == FASHION_LABELS
    names = CLOTHES if fashion else tuple(map(str, range(classes)))
    train, test = (pixels_split(*part, classes) for part in parts)
    return Source(f"{folder.resolve().name} (IDX files in {folder})", names, train, test)


def _read(folder, name, magic) -> tuple[np.ndarray, Path]:
    """The content of an IDX file, and its path."""
    path, dimensions = folder / name, magic & 0xFF
    if not path.exists():
        path = folder / f"{name}.gz"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = np.frombuffer(file.read(4 + 4 * dimensions), ">u4").tolist()
            content = np.frombuffer(file.read(), np.uint8)
    except FileNotFoundError as error:
        raise ValueError(f"Expected a file {name} or {name}.gz in {folder}, got none.") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}). Download it again.") from error
    if len(header) != 1 + dimensions or header[0] != magic or len(content) != math.prod(header[1:]):
        raise ValueError(
            f"{path} is truncated, damaged or not such an IDX file: its header is {header}, and {len(content):,} bytes "
            "follow. Download it again."
        )
    return content.reshape(header[1:]), path
