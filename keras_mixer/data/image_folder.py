"""A folder of image files as a data set, one sub-folder per class, and `files.csv`: what a run knows about it.

The split into training and test images belongs to the run, not to the folder.
"""

import csv
import dataclasses
import filecmp
import os
import posixpath
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_mixer.data.decode import NotAnImage, content_sum
from keras_mixer.data.image_files import check_file, damaged_files, progress, unusable_examples
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
    orientation: int = 0  # as of `read_orientation`; 0 if it was not opened
    crc32: int = 0  # its `content_sum`


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
        names = {part: _folders(self.path / folder) for folder, part in parts.items()}
        if len(names[TRAIN]) < 2:
            raise self._no_classes(names[TRAIN])
        if unknown := sorted(set(names.get(TEST, ())) - set(names[TRAIN])):
            raise ValueError(f"{self.path / self.test_split} has classes that training lacks: {some(unknown)}.")
        images = self._images(parts)
        for part, classes in names.items():
            filled = {image.class_name for image in images if image.part == part}
            if empty := [name for name in classes if name not in filled]:
                raise ValueError(f"{self.path} has no {part} images of {some(empty)}. Fill or remove class folders.")
        if TEST not in names:
            for_test = stratified_split([image.class_name for image in images], test_fraction, seed)
            pairs = zip(images, for_test, strict=True)
            images = [image._replace(part=TEST) if test else image for image, test in pairs]
        self._remark(images)
        return self._source(images)

    def as_test_source(self) -> Source:
        """All images as test images; if there is a sub-folder with test images, only those in it."""
        images = self._images({self.test_split if _folders(self.path / self.test_split) else "": TEST})
        if not images:
            raise self._no_classes()
        return self._source(images)

    def recorded(self, record: list[ImageFile]) -> tuple[Source, str]:
        """The images that are as recorded, in their parts, and which are not, or are new."""
        in_parts = any(not image.path.startswith(f"{image.class_name}/") for image in record)
        folders = (self.train_split, self.test_split) if in_parts else ("",)
        images = self._images(dict.fromkeys(folders, UNUSED), record)
        there, known = set(images), {image.path for image in record}
        gone = [image.path for image in record if image not in there]
        new = [image.path for image in images if image.path not in known]
        return self._source(images), counted({"missing or changed": gone, "new": new})

    def holds(self, record: list[ImageFile]) -> bool:
        """Whether most of the recorded images are in this folder, with their names, sizes and recorded contents."""
        images = {f"{self.path}/{image.path}": image for image in record}
        there = [
            path for path, image in images.items() if os.path.isfile(path) and os.path.getsize(path) == image.bytes
        ]
        for path in there[:: len(there) // LOOKED_AT + 1]:
            with open(path, "rb") as file:
                if content_sum(file) != images[path].crc32:
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
        if not (train or test) and {self.train_split, self.test_split} <= set(inside):
            raise self._no_classes()
        common = sorted(set.intersection(*map(set, inside.values()))) if inside else []
        tests = [name for name in inside if inside[name] and name.lower().startswith(("test", "val", "eval"))]
        trains = [name for name in inside if inside[name] and name not in tests]
        if not (train or test or len(common) > 1 or (common and tests)):
            if self.test_split != "test":
                self.log(f"There is no folder {self.path / self.test_split}: test images are drawn from each class.")
            return {"": TRAIN}
        for_train, for_test = (trains or ["FOLDER"])[0], " or ".join(tests or trains[1:]) or "FOLDER"
        classes = some(common or train or test)
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

    def _images(self, parts, record=()) -> list[ImageFile]:
        """The images in the class folders of some sub-folders; files that are recorded are not opened."""
        known = {(image.path, image.bytes): image for image in record}
        images, damaged, left_out = [], dict[str, str](), defaultdict[str, list[str]](list)
        for file in progress(self._files(parts, left_out)):
            try:
                image = known.get((file.path, file.bytes))
                images.append(image or file._replace(**check_file(f"{self.path}/{file.path}")))
            except NotAnImage as error:
                left_out[str(error)].append(file.path)
            except ValueError as error:
                damaged[file.path] = str(error)
        if self.skip_corrupt:
            split = self._split(images, {image.class_name for image in images})
            damaged |= {images[i].path: reason for i, reason in unusable_examples(split).items()}
        elif damaged:
            raise damaged_files(list(damaged.values()))
        if said := counted(left_out | {"damaged": list(damaged)}):
            self.log(f"Left out of {self.path}: {said}.")
        return [image for image in images if image.path not in damaged]

    def _files(self, parts, left_out) -> list[ImageFile]:
        """All files in the class folders of some sub-folders, not opened; notes what is left out."""
        found = []
        for folder, part in parts.items():
            for entry in _entries(self.path / folder):
                path = posixpath.join(folder, entry.name)
                if entry.is_dir():
                    files = _files_below(self.path, path, left_out)
                    found += [ImageFile(file, entry.name, part, size) for file, size in files]
                else:
                    left_out["files outside the class folders"].append(path)
        return found

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
        classes = {image.class_name for image in images if image.part != UNUSED}
        train, test = (self._split([i for i in images if i.part == part], classes) for part in (TRAIN, TEST))
        return Source(self.path.resolve().name, tuple(sorted(classes)), train, test, tuple(images))

    def _split(self, images, classes) -> Split:
        labels = {name: label for label, name in enumerate(sorted(classes))}
        columns = {  # paths as bytes, because they need not be UTF-8
            "path": np.array([os.fsencode(f"{self.path}/{image.path}") for image in images], "S"),
            "label": np.array([labels[image.class_name] for image in images], np.int64),
            "orientation": np.array([image.orientation for image in images], np.int32),
        }

        def read(element):
            return {**element, "image": tf.io.read_file(element["path"])}

        files, name = tuple(images), str(self.path)
        return Split.indexed(len(images), len(labels), rows_of(columns), read, files=files, name=name)


def images_below(folder) -> list[str]:
    """Paths of the image files below a folder, in order, damaged ones too; those of other files are left out."""
    found = []
    for path, _ in _files_below(folder, "", defaultdict(list)):
        try:
            check_file(f"{folder}/{path}")
        except NotAnImage:
            continue
        except ValueError:
            pass
        found.append(f"{folder}/{path}")
    return found


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


def _entries(path) -> list[os.DirEntry]:
    """The files and folders in a folder, sorted by name, without hidden and system ones; none if it is no folder."""
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


def _files_below(root, below, left_out) -> list[tuple[str, int]]:
    """`(path below root, bytes)` of every file in a folder below `root`, in order; notes what is left out."""
    found = []
    for entry in _entries(f"{root}/{below}"):
        path = posixpath.join(below, entry.name)
        if entry.is_dir(follow_symlinks=False):
            found += _files_below(root, path, left_out)
        elif entry.is_file():
            found.append((path, entry.stat().st_size))
        else:
            left_out["links to folders or to nothing, pipes and devices"].append(path)
    return found
