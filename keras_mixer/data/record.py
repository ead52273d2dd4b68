"""The images that a run trains and tests on, as `files.csv`: the split belongs to the run, not to the folder."""

import csv
import dataclasses
import os
import zlib
from pathlib import Path

from keras_mixer.data.splits import Source, evenly_spaced, some
from keras_mixer.files import atomic_write

FILES = "files.csv"
COLUMNS = ("path", "class", "part", "bytes", "height", "width", "orientation", "crc32")
SUMMED = 16  # images whose content is recorded, evenly spaced
TRAIN, TEST, UNUSED = "train", "test", "unused"


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One image of a folder, a line of `files.csv`; its header is as in `Header`, and zeros if it is damaged."""

    path: str  # below the folder, with "/"
    class_name: str
    part: str  # TRAIN, TEST or UNUSED
    bytes: int
    height: int = 0
    width: int = 0
    orientation: int = 0
    crc32: int = 0  # of the content; 0 if it is not recorded

    def is_in(self, folder) -> bool:
        """Whether the image is in a folder, with the same name and size."""
        path = Path(folder, self.path)
        return path.is_file() and path.stat().st_size == self.bytes


def write_files(path, source: Source):
    """Writes the images of a source, with the parts that they are in now, as `files.csv`."""
    summed = set(evenly_spaced(len(source.images), SUMMED))
    parts = dict.fromkeys(source.train.files, TRAIN) | dict.fromkeys(source.test.files, TEST)
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, image in enumerate(source.images):
            path = os.path.join(source.folder, image.path)
            crc32 = image.crc32 or (content_sum(path) if i in summed else 0)
            writer.writerow((vars(image) | {"part": parts.get(path, UNUSED), "crc32": crc32}).values())


def content_sum(path) -> int:
    """The CRC-32 of a file."""
    with open(path, "rb") as file:
        return zlib.crc32(file.read())


def read_files(path) -> list[ImageFile]:
    """The images in a `files.csv`; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        _, *rows = csv.reader(file)
    try:
        return [ImageFile(path, name, part, *map(int, numbers)) for path, name, part, *numbers in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). Restore it, or train again in another folder.") from error


def describe_changes(changes) -> str:
    """Such as `2 gone (a.png, b.png), 1 new (c.png)`; empty without changes."""
    return ", ".join(f"{len(paths):,} {what} ({some(paths)})" for what, paths in changes.items() if paths)
