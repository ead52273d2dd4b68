"""Image sets in MNIST's IDX format, read as published: Fashion-MNIST, MNIST, KMNIST and EMNIST.

Source: yann.lecun.com/exdb/mnist (format); arXiv 1708.07747 (Fashion-MNIST), 1812.01718 (KMNIST), 1702.05373 (EMNIST).
"""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from keras_mixer.data.splits import Source, Split, pixels_split

FILE_NAME = re.compile(r"(?P<set>[\w-]+-)?(?P<part>train|t10k|test)-(?P<kind>images-idx3|labels-idx1)-ubyte(?:\.gz)?")
PARTS = {"train": "training", "t10k": "test", "test": "test"}  # EMNIST says "test" where MNIST says "t10k"
MAGIC = {"images-idx3": 0x0803, "labels-idx1": 0x0801}  # unsigned bytes in three dimensions, in one

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
FASHION_LABELS = 0x741A4657  # CRC-32 of its uncompressed file of training labels
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def is_idx_folder(folder) -> bool:
    """Whether a folder contains files named like those of MNIST."""
    return any(FILE_NAME.fullmatch(path.name) for path in Path(folder).iterdir())


def idx_source(folder) -> Source:
    """The data set in a folder of four IDX files, compressed or not.

    Class names: those of Fashion-MNIST, recognised by its labels; of KMNIST, by the name of the folder; of EMNIST, from
    its `...-mapping.txt`; otherwise the numbers.

    Raises:
        ValueError: a file is missing, truncated or damaged, or images and labels do not match; names the file.
    """
    folder = Path(folder)
    files = _find_files(folder)
    mappings = sorted(folder.glob("*-mapping.txt"))
    mapping = [line.split() for line in mappings[0].read_text().splitlines()] if mappings else []
    first = int(mapping[0][0]) if mapping else 0  # EMNIST counts letters from 1
    transposed = files["training", "images-idx3"].name.startswith("emnist")
    train_labels, test_labels = (_read_labels(files[part, "labels-idx1"], first) for part in ("training", "test"))
    count = int(max(train_labels.max(), test_labels.max())) + 1
    names = tuple(chr(int(row[1])) for row in mapping) or _class_names(folder, train_labels, count)
    if len(names) < count:
        raise ValueError(f"Expected labels below {len(names)} in {folder}, got {count - 1}.")
    train = _split(files["training", "images-idx3"], train_labels, len(names), transposed)
    test = _split(files["test", "images-idx3"], test_labels, len(names), transposed)
    return Source(f"{folder.resolve().name} (IDX files in {folder})", names, train, test)


def _find_files(folder) -> dict[tuple[str, str], Path]:
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):  # NAME before NAME.gz: the uncompressed file is read if both are there
        match = FILE_NAME.fullmatch(path.name)
        if match:
            key = PARTS[match["part"]], match["kind"]
            if found.setdefault(key, path).name.removesuffix(".gz") != path.name.removesuffix(".gz"):
                raise ValueError(f"Expected one data set in {folder}, got {found[key].name} and {path.name}.")
    for part in ("training", "test"):
        for kind in MAGIC:
            if (part, kind) not in found:
                expected = "train" if part == "training" else "t10k"
                raise ValueError(
                    f"{folder} has no {part} {kind.split('-')[0]}. Expected {expected}-{kind}-ubyte or the same name "
                    f"with .gz next to {', '.join(sorted(path.name for path in found.values()))}."
                )
    return found


def _read(path, kind) -> np.ndarray:
    """The content of an IDX file."""
    dimensions = MAGIC[kind] & 0xFF
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = np.frombuffer(file.read(4 + 4 * dimensions), ">u4").tolist()
            content = np.frombuffer(file.read(), np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}). Download it again.") from error
    if len(header) != 1 + dimensions or header[0] != MAGIC[kind]:
        raise ValueError(f"{path} is not an IDX file of {kind.split('-')[0]}: its header is {header}.")
    if len(content) != math.prod(header[1:]):
        raise ValueError(
            f"{path} is truncated or damaged: its header announces {math.prod(header[1:]):,} bytes, it has "
            f"{len(content):,}. Download it again."
        )
    return content.reshape(header[1:])


def _read_labels(path, first) -> np.ndarray:
    labels = _read(path, "labels-idx1").astype(np.int64) - first
    if not labels.size or labels.min() < 0:
        found = labels.min() + first if labels.size else "none"
        raise ValueError(f"Expected labels from {first} in {path}, got {found}.")
    return labels


def _split(path, labels, classes, transposed) -> Split:
    images = _read(path, "images-idx3")
    if len(images) != len(labels):
        raise ValueError(f"{path} has {len(images):,} images, but its labels file has {len(labels):,} labels.")
    return pixels_split((images.transpose(0, 2, 1) if transposed else images)[..., None], labels, classes)


def _class_names(folder, labels, count) -> tuple[str, ...]:
    header = np.array([MAGIC["labels-idx1"], len(labels)], ">u4").tobytes()
    if zlib.crc32(header + labels.astype(np.uint8).tobytes()) == FASHION_LABELS:
        return CLOTHES
    return HIRAGANA if "kmnist" in folder.resolve().name.lower() else tuple(map(str, range(count)))
