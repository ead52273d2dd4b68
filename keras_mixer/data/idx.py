"""Image sets in MNIST's IDX format, read as published: Fashion-MNIST, MNIST, KMNIST and EMNIST.

Source: yann.lecun.com/exdb/mnist (format); arXiv 1708.07747 (Fashion-MNIST), 1812.01718 (KMNIST), 1702.05373 (EMNIST).
"""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from keras_mixer.data.splits import Source, pixels_split

# EMNIST says "test" where MNIST says "t10k".
FILE_NAME = re.compile(r"(?:[\w-]+-)?(train|t10k|test)-(images-idx3|labels-idx1)-ubyte(?:\.gz)?")
MAGIC = {"images-idx3": 0x0803, "labels-idx1": 0x0801}  # unsigned bytes in three dimensions, in one

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
FASHION_LABELS = 0x2ED6E46A  # CRC-32 of its training labels
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def is_idx_folder(folder) -> bool:
    """Whether a folder contains files named like those of MNIST."""
    return any(FILE_NAME.fullmatch(path.name) for path in Path(folder).iterdir())


def idx_source(folder) -> Source:
    """The data set in a folder of four IDX files, compressed or not; ValueError names a file that cannot be used.

    Class names: those of EMNIST are in its `...-mapping.txt`, Fashion-MNIST is known by its labels, KMNIST by the name
    of the folder; otherwise they are numbers.
    """
    folder = Path(folder)
    mappings = sorted(folder.glob("*-mapping.txt"))
    mapping = [line.split() for line in mappings[0].read_text().splitlines()] if mappings else []
    first = int(mapping[0][0]) if mapping else 0  # EMNIST counts letters from 1
    parts = []
    for part in (("train",), ("t10k", "test")):
        images, path = _read(folder, part, "images-idx3")
        labels, of_labels = _read(folder, part, "labels-idx1")
        if len(images) != len(labels) or not len(labels):
            raise ValueError(f"{path} has {len(images):,} images, but {of_labels} has {len(labels):,} labels.")
        if path.name.startswith("emnist"):
            images = images.transpose(0, 2, 1)
        parts.append((images[..., None], labels.astype(np.int64) - first))
    labels = np.concatenate([labels for _, labels in parts])
    known, count = folder.resolve().name.lower(), int(labels.max()) + 1
    names = tuple(chr(int(row[1])) for row in mapping) or tuple(map(str, range(count)))
    if zlib.crc32(parts[0][1].astype(np.uint8).tobytes()) == FASHION_LABELS:  # torchvision's folder is called "raw"
        names = CLOTHES
    elif "kmnist" in known:
        names = HIRAGANA
    if labels.min() < 0 or len(names) < count:
        raise ValueError(
            f"Expected labels from {first} to {first + len(names) - 1} in {folder}, got {labels.min() + first} to "
            f"{labels.max() + first}."
        )
    train, test = (pixels_split(images, of_part, len(names)) for images, of_part in parts)
    return Source(f"{folder.resolve().name} (IDX files in {folder})", names, train, test)


def _read(folder, part, kind) -> tuple[np.ndarray, Path]:
    """The content of the IDX file of a part, and its path."""
    named = [(path, FILE_NAME.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    found = [path for path, match in named if match and match[1] in part and match[2] == kind]
    if len({path.name.removesuffix(".gz") for path in found}) != 1:
        expected = " or ".join(f"{name}-{kind}-ubyte" for name in part)
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"Expected one file {expected} or .gz in {folder}, got {names}.")
    path, dimensions = found[0], MAGIC[kind] & 0xFF  # the uncompressed one if both are there
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = np.frombuffer(file.read(4 + 4 * dimensions), ">u4").tolist()
            content = np.frombuffer(file.read(), np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}). Download it again.") from error
    if len(header) != 1 + dimensions or header[0] != MAGIC[kind] or len(content) != math.prod(header[1:]):
        raise ValueError(
            f"{path} is truncated, damaged or not an IDX file of {kind}: its header is {header}, and {len(content):,} "
            "bytes follow. Download it again."
        )
    return content.reshape(header[1:]), path
