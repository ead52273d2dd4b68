"""A folder of image files as a data set, one sub-folder per class."""

import dataclasses
import filecmp
import io
import os
import posixpath
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_mixer.data.decode import NO_PIXELS, NotAnImage, read_orientation, reason_of
from keras_mixer.data.splits import Source, Split, damaged_files, progress, rows_of, some, stratified_split

TRAIN, TEST = "train", "test"
LOOKED_AT = 16  # images of a folder, evenly spaced, whose content is looked at
SAMPLE = 8192  # bytes of a file that tell its content from others
SYSTEM_NAMES = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "desktop.ini", "lost+found", "thumbs.db"}


class ImageFile(NamedTuple):
    """One image of a folder, a line of the `files.csv` of a run."""

    path: str  # below the folder, with "/"
    class_name: str
    part: str  # TRAIN or TEST
    bytes: int
    orientation: int  # as of `read_orientation`
    crc32: int  # of up to `SAMPLE` bytes in its middle


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """`DIR/train/CLASS/*` and `DIR/test/CLASS/*`, or `DIR/CLASS/*`.

    What is an image is decided by opening it. Hidden and system files and folders are left out. Links to files are
    followed, and a folder of a part or class may be a link.
    """

    path: Path
    train_split: str = "train"
    test_split: str = "test"
    skip_corrupt: bool = False  # leave out damaged images instead of raising; every image is decoded to find them
    log: Callable[[str], None] = print

    def source(self, test_fraction, seed) -> Source:
        """The images of the two sub-folders; without them, the seed chooses a fraction of each class to test on."""
        parts = self._parts()
        images = self._images(parts)
        classes = {*_folders(self.path / next(iter(parts))), *(image.class_name for image in images)}
        if len(classes) < 2 or (len(parts) == 2 and TEST not in {image.part for image in images}):
            raise self._no_classes(sorted(classes))
        if empty := sorted(classes - {image.class_name for image in images if image.part == TRAIN}):
            raise ValueError(f"{self.path} has no training images of {some(empty)}. Fill or remove class folders.")
        if "" in parts:
            for_test = stratified_split([image.class_name for image in images], test_fraction, seed)
            images = [i._replace(part=TEST) if test else i for i, test in zip(images, for_test, strict=True)]
        self._remark(images)
        return self._source(images)

    def as_test_source(self) -> Source:
        """All images as test images; if there is a sub-folder with test images, only those in it."""
        images = self._images({self.test_split if _folders(self.path / self.test_split) else "": TEST})
        if not images:
            raise self._no_classes()
        return self._source(images)

    def recorded(self, record) -> tuple[Source, list[str]]:
        """The recorded images that are there in their sizes, in their parts, and the paths of the others."""
        there = self._decodable(self._there(record), defaultdict(list))
        return self._source(there), sorted({image.path for image in record} - {image.path for image in there})

    def holds(self, record) -> bool:
        """Whether most of the recorded images are in this folder, with their names, sizes and recorded contents."""
        there = self._there(record)
        for image in there[:: len(there) // LOOKED_AT + 1]:
            with open(self.path / image.path, "rb") as file:
                if _size_and_crc32(file) != (image.bytes, image.crc32):
                    return False
        return 2 * len(there) > len(record)

    def _there(self, record) -> list[ImageFile]:
        """The recorded images that are in this folder, in their sizes."""
        paths = [(image, f"{self.path}/{image.path}") for image in record]
        return [image for image, path in paths if os.path.isfile(path) and os.path.getsize(path) == image.bytes]

    def _parts(self) -> dict[str, str]:
        """`{folder: part}`: the sub-folders with training and with test images; "" if the folder itself has classes."""
        if (self.path / self.train_split).is_dir() and (self.path / self.test_split).is_dir():
            return {posixpath.normpath(self.train_split): TRAIN, posixpath.normpath(self.test_split): TEST}
        inside = {name: _folders(self.path / name) for name in _folders(self.path)}
        one_part = _folders(self.path / self.train_split) or _folders(self.path / self.test_split)
        common = sorted(set.intersection(*map(set, inside.values()))) if inside else []
        tests = [name for name in inside if inside[name] and name.lower().startswith(("test", "val", "eval"))]
        trains = [name for name in inside if inside[name] and name not in tests]
        if not (one_part or len(common) > 1 or (common and tests)):
            if self.test_split != "test":
                self.log(f"There is no folder {self.path / self.test_split}: test images are drawn from each class.")
            return {"": TRAIN}
        for_train, for_test = (trains or ["FOLDER"])[0], " or ".join(tests or trains[1:]) or "FOLDER"
        classes = some(common or one_part)
        raise ValueError(
            f"Which folders are the classes? {self.path} has {some(list(inside))}, with {classes} inside. If {classes} "
            f"are the classes, pass --train-split {for_train} --test-split {for_test}, or put them directly into "
            f"{self.path} to have them split. If not, move the images out of the folders inside."
        )

    def _no_classes(self, names=()):
        folder, found = self.path, some(names) or "none"
        return ValueError(
            f"Image folder {folder} must contain two or more class folders with images; found: {found}. "
            f"Expected {folder}/CLASS/*.jpg or {folder}/train/CLASS/*.jpg with {folder}/test/CLASS/*.jpg."
        )

    def _images(self, parts) -> list[ImageFile]:
        """The images in the class folders of some sub-folders; says what is left out."""
        images, reasons, left_out = [], [], defaultdict[str, list[str]](list)
        if "" not in parts:
            left_out["folders"] = sorted(set(_folders(self.path)) - {folder.split("/")[0] for folder in parts})
        files = [(folder, file, part) for folder, part in parts.items() for file in files_below(self.path / folder)]
        for folder, file, part in progress(files):
            path, class_name = posixpath.join(folder, file), file.split("/")[0]
            if class_name == file:
                left_out["files outside the class folders"].append(path)
                continue
            try:
                images.append(ImageFile(path, class_name, part, *check_file(f"{self.path}/{path}")))
            except NotAnImage as error:
                left_out[str(error)].append(path)
            except ValueError as error:
                left_out["damaged"].append(path)
                reasons.append(str(error))
        if reasons and not self.skip_corrupt:
            raise damaged_files(reasons)
        images = self._decodable(images, left_out)
        if said := [f"{what}: {len(paths):,} ({some(paths)})" for what, paths in left_out.items() if paths]:
            self.log(f"Left out of {self.path}: {', '.join(said)}.")
        return images

    def _decodable(self, images, left_out) -> list[ImageFile]:
        """The images; if damaged ones are left out, only those that can be decoded, and notes the others."""
        if not self.skip_corrupt:
            return images
        damaged = self._split(images, {image.class_name for image in images}).unusable()
        left_out["damaged"] += [images[i].path for i in damaged]
        return [image for i, image in enumerate(images) if i not in damaged]

    def _remark(self, images):
        """Says which images are for training and for testing too, and whether one uses only 12 of its 16 bits."""
        trained = {(image.bytes, image.crc32): image.path for image in images if image.part == TRAIN}
        pairs = [(i.path, trained.get((i.bytes, i.crc32))) for i in images if i.part == TEST]
        if twice := [a for a, b in pairs if b and filecmp.cmp(self.path / a, self.path / b, shallow=False)]:
            self.log(f"Training images that are test images too: {len(twice):,} ({some(twice)}).")
        for image in images[:: len(images) // LOOKED_AT + 1]:
            with Image.open(self.path / image.path) as opened:
                if opened.mode.startswith("I;16") and np.asarray(opened).max() < 2**12:
                    self.log(f"{image.path} has 16 bits per pixel and uses 12: it is almost black. Scale it by 16.")
                    return

    def _source(self, images) -> Source:
        classes = sorted({image.class_name for image in images})
        train, test = (self._split([i for i in images if i.part == part], classes) for part in (TRAIN, TEST))
        return Source(self.path.resolve().name, tuple(classes), train, test)

    def _split(self, images, classes) -> Split:
        labels = {name: label for label, name in enumerate(sorted(classes))}
        columns = {  # paths as bytes, because they need not be UTF-8
            "path": np.array([os.fsencode(f"{self.path}/{image.path}") for image in images], "S"),
            "label": np.array([labels[image.class_name] for image in images], np.int64),
            "orientation": np.array([image.orientation for image in images], np.int32),
        }

        def read(element):
            return {**element, "image": tf.io.read_file(element["path"])}

        options = {"files": tuple(images), "name": str(self.path)}
        return Split.indexed(len(images), len(labels), rows_of(columns), read, **options)


def check_file(path) -> tuple[int, int, int]:
    """The bytes, the orientation and the CRC-32 of an image file, as in an `ImageFile`.

    NotAnImage says what it is if it is not called an image either; a ValueError names an image that cannot be used.
    """
    if not os.path.isfile(path):
        raise NotAnImage("links to folders or to nothing, pipes and devices")
    try:
        with open(path, "rb") as file:  # a third faster than Pillow's way to open a path
            orientation = read_orientation(file)
            size, crc32 = _size_and_crc32(file)
            return size, orientation, crc32
    except Exception as error:  # Pillow has many types
        named = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
        if isinstance(error, NotAnImage) and (named not in Image.OPEN or named in NO_PIXELS):
            raise
        raise ValueError(f"{path}: {reason_of(error)}") from error


def _size_and_crc32(file) -> tuple[int, int]:
    """The bytes of an open file, and the CRC-32 of up to `SAMPLE` of them in the middle, where pixels are."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - SAMPLE) // 2)
    return size, zlib.crc32(file.read(SAMPLE))


def _entries(path) -> list[os.DirEntry]:
    """Files and folders in a folder, sorted by name, without hidden and system ones; none if it is not a folder."""
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        visible = [entry for entry in entries if entry.name[0] != "." and entry.name.lower() not in SYSTEM_NAMES]
    return sorted(visible, key=lambda entry: entry.name)


def _folders(path) -> list[str]:
    """Names of the visible folders in a folder, sorted; none if it is not a folder."""
    names = [entry.name for entry in _entries(path) if entry.is_dir()]
    for name in names:
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"The name of the class folder {name!r} in {path} is not UTF-8. Rename the folder.")
    return names


def files_below(folder, follow_links=True) -> Iterator[str]:
    """Relative paths of all but folders below a folder, in order; only its own links to folders are followed."""
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=follow_links):
            for path in files_below(entry.path, follow_links=False):
                yield f"{entry.name}/{path}"
        else:
            yield entry.name
