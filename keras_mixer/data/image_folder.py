"""A folder of image files as a data set, one sub-folder per class, and `files.csv`: what a run knows about it.

The split into training and test images belongs to the run, not to the folder.
"""

import csv
import dataclasses
import filecmp
import itertools
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_mixer.data.decode import NotAnImage, content_sum
from keras_mixer.data.image_files import check_files, damaged_files, unusable_examples
from keras_mixer.data.splits import Source, Split, rows_of, some, stratified_split
from keras_mixer.files import atomic_write

FILES = "files.csv"
TRAIN, TEST, UNUSED = "train", "test", "unused"
LOOKED_AT = 16  # images of a folder, evenly spaced, whose content is looked at
AS_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}  # names may be any bytes
SYSTEM_NAMES = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "desktop.ini", "lost+found", "thumbs.db"}


class ImageFile(NamedTuple):
    """One image of a folder, a line of `files.csv`."""

    path: str  # below the folder, with "/"
    class_name: str
    part: str  # TRAIN, TEST or UNUSED
    bytes: int
    orientation: int = 0  # as of `read_orientation`; 0 if it is damaged
    crc32: int = 0  # its `content_sum`


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """`DIR/train/CLASS/*` and `DIR/test/CLASS/*`, or `DIR/CLASS/*`.

    What is an image is decided by opening it. Hidden and system files and folders are left out; links are followed.
    """

    path: Path
    train_split: str = "train"
    test_split: str = "test"
    skip_corrupt: bool = False  # leave out damaged images instead of raising; every image is decoded to find them
    log: Callable[[str], None] = print

    def source(self, test_fraction, seed) -> Source:
        """The images of the two sub-folders; without them, the seed chooses a fraction of each class to test on."""
        parts = self._parts()
        names = {part: _folders(self.path / folder) for folder, part in parts.items()}
        if len(names[TRAIN]) < 2:
            raise self._no_classes(names[TRAIN])
        if unknown := sorted(set(names.get(TEST, ())) - set(names[TRAIN])):
            raise ValueError(f"{self.path / self.test_split} has classes that training lacks: {', '.join(unknown)}.")
        images = self._images(parts)
        for folder, part in parts.items():
            filled = {image.class_name for image in images if image.part == part}
            if empty := [name for name in names[part] if name not in filled]:
                raise ValueError(f"Class folder {self.path / folder / empty[0]} contains no images. Fill or remove it.")
        if len(parts) == 1:
            usable = [i for i, image in enumerate(images) if image.part == TRAIN]
            for_test = stratified_split([images[i].class_name for i in usable], test_fraction, seed)
            for i in itertools.compress(usable, for_test):
                images[i] = images[i]._replace(part=TEST)
        self._remark(images)
        return self._source(names[TRAIN], images)

    def as_test_source(self) -> Source:
        """All images as test images; if there is a sub-folder with test images, only those in it."""
        folder = self.test_split if _folders(self.path / self.test_split) else ""
        images = self._images({folder: TEST})
        classes = {image.class_name for image in images if image.part == TEST}
        if not classes:
            raise self._no_classes(classes)
        return self._source(classes, images)

    def recorded(self, record: Iterable[ImageFile]) -> tuple[Source, dict[str, list[str]]]:
        """The recorded images that are still there, in their parts, and the paths of those that are not, or new.

        Only files that are not recorded are opened.
        """
        known = {image.path: image for image in record}
        in_parts = any(not image.path.startswith(f"{image.class_name}/") for image in known.values())
        found, _ = self._files({self.train_split: TRAIN, self.test_split: TEST} if in_parts else {"": TEST})
        new, _ = self._opened([file for file in found if file.path not in known])
        sizes = {file.path: file.bytes for file in found}
        kept = [image for image in known.values() if sizes.get(image.path) == image.bytes]
        damaged = self._broken([image for image in kept if image.part != UNUSED])
        kept = [image for image in kept if image not in damaged]
        changes = {
            "missing": [path for path in known if path not in sizes],
            "new": [image.path for image in new],
            "changed in size": [path for path, image in known.items() if sizes.get(path, image.bytes) != image.bytes],
            "damaged": [image.path for image in damaged],
        }
        classes = {image.class_name for image in kept}
        if {image.class_name for image in known.values()} - classes:  # a class may have been renamed
            classes |= {image.class_name for image in new}
        return self._source(classes, kept), changes

    def holds(self, record: list[ImageFile]) -> bool:
        """Whether most of the recorded images are in this folder, with their names, sizes and recorded contents."""
        there = [image for image in record if _size(self.path / image.path) == image.bytes]
        for image in there[:: len(there) // LOOKED_AT + 1]:
            with open(self.path / image.path, "rb") as file:
                if image.crc32 and content_sum(file) != image.crc32:
                    return False
        return 2 * len(there) > len(record)

    def _parts(self) -> dict[str, str]:
        """`{folder: part}`: the sub-folders with training and with test images; "" if the folder itself has classes."""
        if self.train_split == self.test_split:
            raise ValueError(f"Expected two folders as --train-split and --test-split, got {self.test_split!r} twice.")
        train, test = (_folders(self.path / name) for name in (self.train_split, self.test_split))
        if train and test:
            return {self.train_split: TRAIN, self.test_split: TEST}
        inside = {name: _folders(self.path / name) for name in _folders(self.path)}
        others = [name for name in inside if inside[name] and name not in (self.train_split, self.test_split)]
        trains = [name for name in others if name.lower().startswith("train")]
        tests = [name for name in others if name.lower().startswith(("test", "val", "eval"))]
        common = sorted(set.intersection(*map(set, inside.values()))) if len(inside) > 1 else []
        if {self.train_split, self.test_split} <= set(inside) and not (train or test):
            raise self._no_classes([])
        if not (train or test or len(common) > 1 or (common and trains and tests)):
            if self.test_split != "test":
                self.log(f"There is no folder {self.path / self.test_split}: test images are drawn from each class.")
            return {"": TRAIN}
        for_train = self.train_split if train else (trains or [n for n in others if n not in tests] or ["FOLDER"])[0]
        for_test = [self.test_split] if test else tests or [name for name in others if name != for_train][-1:]
        classes = some(common or train or test)
        raise ValueError(
            f"Which folders are the classes? {self.path} has {some(list(inside))}, with {classes} inside. If {classes} "
            f"are the classes, pass --train-split {for_train} --test-split {' or '.join(for_test) or 'FOLDER'}, or put "
            f"them directly into {self.path} to have them split. If not, move the images out of the folders inside."
        )

    def _no_classes(self, names):
        found = f"only one ({names[0]})" if names else "none"
        return ValueError(
            f"Image folder {self.path} must contain two or more class folders with images; it contains {found}. "
            f"Expected {self.path}/CLASS/*.jpg or {self.path}/train/CLASS/*.jpg with {self.path}/test/CLASS/*.jpg."
        )

    def _images(self, parts) -> list[ImageFile]:
        """The images in the class folders of some sub-folders; damaged ones, if they are left out, as unused."""
        files, left_out = self._files(parts)
        images, unusable = self._opened(files)
        damaged = {file: reason for file, reason in unusable.items() if not isinstance(reason, NotAnImage)}
        if damaged and not self.skip_corrupt:
            raise damaged_files(list(damaged.values()))
        left_out["files that are not images Pillow can read"] = [f.path for f in unusable if f not in damaged]
        left_out["damaged images"] = [file.path for file in damaged]
        if said := counted(left_out):
            self.log(f"Left out of {self.path}: {said}.")
        return images + [file._replace(part=UNUSED) for file in damaged]

    def _files(self, parts) -> tuple[list[ImageFile], dict[str, list[str]]]:
        """All files in the class folders of some sub-folders, not opened, and what was left out."""
        found, left_out = [], defaultdict[str, list[str]](list)
        for folder, part in parts.items():
            names = _folders(self.path / folder)
            for name in names:
                files = _files_below(self.path, f"{folder}/{name}" if folder else name, left_out)
                found += [ImageFile(path, name, part, size) for path, size in files]
            outside = set(os.listdir(self.path / folder) if names else ()) - set(names)
            left_out["files outside the class folders"] += sorted(name for name in outside if not _hidden(name))
        if "" not in parts:
            left_out["folders"] = sorted(set(_folders(self.path)) - {folder.split("/")[0] for folder in parts})
        return found, left_out

    def _opened(self, files) -> tuple[list[ImageFile], dict[ImageFile, ValueError]]:
        """The images among files, and why the others cannot be used."""
        found = list(zip(files, check_files([f"{self.path}/{file.path}" for file in files]), strict=True))
        images = [ImageFile(f.path, f.class_name, f.part, f.bytes, *h) for f, h in found if isinstance(h, tuple)]
        unusable = {file: reason for file, reason in found if isinstance(reason, ValueError)} | self._broken(images)
        return [image for image in images if image not in unusable], unusable

    def _broken(self, images) -> dict[ImageFile, ValueError]:
        """Those whose pixels cannot be decoded, and why; looked for only if they are to be left out."""
        if not self.skip_corrupt:
            return {}
        split = self._split(images, dict.fromkeys((image.class_name for image in images), 0))
        return {images[i]: reason for i, reason in unusable_examples(split).items()}

    def _remark(self, images):
        """Says which images are for training and for testing too, and which use only 12 of their 16 bits."""
        trained = {(image.bytes, image.crc32): image.path for image in images if image.part == TRAIN}
        pairs = [(i.path, trained.get((i.bytes, i.crc32))) for i in images if i.part == TEST]
        if twice := [a for a, b in pairs if b and filecmp.cmp(self.path / a, self.path / b, shallow=False)]:
            self.log(f"Training images that are test images too: {len(twice):,} ({some(twice)}).")
        for image in [image for image in images if image.part != UNUSED][:: len(images) // LOOKED_AT + 1]:
            with Image.open(self.path / image.path) as opened:
                if opened.mode.startswith("I;16") and np.asarray(opened).max() < 2**12:
                    self.log(f"{image.path} has 16 bits per pixel and uses 12: it is almost black. Scale it by 16.")
                    return

    def _source(self, classes, images) -> Source:
        labels = {name: label for label, name in enumerate(sorted(classes))}
        train, test = (self._split([i for i in images if i.part == part], labels) for part in (TRAIN, TEST))
        return Source(self.path.resolve().name, tuple(labels), train, test, tuple(images))

    def _split(self, images, labels) -> Split:
        columns = {  # paths as bytes, because they need not be UTF-8
            "path": np.array([os.fsencode(f"{self.path}/{image.path}") for image in images], "S"),
            "label": np.array([labels[image.class_name] for image in images], np.int64),
            "orientation": np.array([image.orientation for image in images], np.int32),
        }

        def read(element):
            return {**element, "image": tf.io.read_file(element["path"])}

        return Split.indexed(len(images), len(labels), rows_of(columns), read, files=tuple(images))


def images_below(folder) -> list[str]:
    """Paths of the image files below a folder, in order, damaged ones too; those of other files are left out."""
    paths = [os.path.join(folder, path) for path, _ in _files_below(folder, "", defaultdict(list))]
    return [path for path, found in zip(paths, check_files(paths), strict=True) if not isinstance(found, NotAnImage)]


def counted(kinds) -> str:
    """Such as `missing: 2 (a.png, b.png), new: 1 (c.png)`; empty if there are none of any kind."""
    return ", ".join(f"{what}: {len(paths):,} ({some(paths)})" for what, paths in kinds.items() if paths)


def write_files(path, source: Source):
    """Writes the images of a source, with the parts that they are in now, as `files.csv`."""
    parts = dict.fromkeys(source.train.files, TRAIN) | dict.fromkeys(source.test.files, TEST)
    with atomic_write(path) as temporary, temporary.open("w", **AS_TEXT) as file:
        writer = csv.writer(file)
        writer.writerow(ImageFile._fields)
        for image in source.images:
            writer.writerow(image._replace(part=parts.get(image, UNUSED)))


def read_files(path) -> list[ImageFile]:
    """The images in a `files.csv`; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(**AS_TEXT) as file:
        _, *rows = csv.reader(file)
    try:
        return [ImageFile(path, name, part, *map(int, numbers)) for path, name, part, *numbers in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). Restore it, or train again in another folder.") from error


def _hidden(name):
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _folders(path) -> list[str]:
    """Names of the visible folders in a folder, sorted; none if it is not a folder."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:  # only links are followed to know what they are; broken ones are no folders
        folders = [entry for entry in entries if (os.path.isdir(entry) if entry.is_symlink() else entry.is_dir())]
    names = sorted(entry.name for entry in folders if not _hidden(entry.name))
    for name in names:
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"The name of the class folder {name!r} in {path} is not UTF-8. Rename the folder.")
    return names


def _files_below(root, below, left_out) -> list[tuple[str, int]]:
    """`(path below root, bytes)` of every file in a folder below `root`, in order; notes what is left out."""
    found, seen = [], set()

    def walk(folder):
        status = os.stat(f"{root}/{folder}")
        if (status.st_dev, status.st_ino) in seen:
            left_out["links to folders already read"].append(folder)
            return
        seen.add((status.st_dev, status.st_ino))
        for name in sorted(os.listdir(f"{root}/{folder}")):
            path = f"{folder}/{name}" if folder else name
            if _hidden(name):
                left_out["hidden or system files and folders"].append(path)
            elif (size := _size(f"{root}/{path}")) is not None:
                found.append((path, size))
            elif os.path.isdir(f"{root}/{path}"):
                walk(path)
            else:
                left_out["broken links, pipes, sockets or devices"].append(path)

    walk(below)
    return sorted(found)


def _size(path) -> int | None:
    """Bytes of a file; None if it is not there or not a regular file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
