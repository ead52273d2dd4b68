"""A folder of image files as a data set, one sub-folder per class."""

import dataclasses
import filecmp
import os
import posixpath
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_mixer.data.decode import NotAnImage, content_sum
from keras_mixer.data.image_files import check_file, damaged_files, progress, unusable_examples
from keras_mixer.data.splits import Source, Split, rows_of, some, stratified_split

TRAIN, TEST = "train", "test"
LOOKED_AT = 16  # images of a folder, evenly spaced, whose content is looked at
SYSTEM_NAMES = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "desktop.ini", "lost+found", "thumbs.db"}


class ImageFile(NamedTuple):
    """One image of a folder, a line of the `files.csv` of a run."""

    path: str  # below the folder, with "/"
    class_name: str
    part: str  # TRAIN or TEST
    bytes: int
    orientation: int  # as of `read_orientation`
    crc32: int  # its `content_sum`


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
        train_folder, *test_folder = parts
        classes = _folders(self.path / train_folder)
        if len(classes) < 2:
            raise self._no_classes(classes)
        images = self._images(parts)
        trained = {image.class_name for image in images if image.part == TRAIN}
        if empty := [name for name in classes if name not in trained]:
            raise ValueError(f"{self.path} has no training images of {some(empty)}. Fill or remove class folders.")
        if unknown := sorted({image.class_name for image in images} - trained):
            raise ValueError(f"{self.path / self.test_split} has classes that training lacks: {some(unknown)}.")
        if not test_folder:
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

    def recorded(self, record) -> tuple[Source, list[str]]:
        """The images that are as recorded, in their parts, and the paths of the others."""
        there = self._decodable(self._there(record), defaultdict(list))
        return self._source(there), sorted({image.path for image in record} - {image.path for image in there})

    def holds(self, record) -> bool:
        """Whether most of the recorded images are in this folder, with their names, sizes and recorded contents."""
        there = self._there(record)
        for image in there[:: len(there) // LOOKED_AT + 1]:
            with open(self.path / image.path, "rb") as file:
                if content_sum(file) != image.crc32:
                    return False
        return 2 * len(there) > len(record)

    def _there(self, record) -> list[ImageFile]:
        """The recorded images that are in this folder, in their sizes."""

        def size(path):
            return os.path.getsize(path) if os.path.isfile(path) else None

        return [image for image in record if size(f"{self.path}/{image.path}") == image.bytes]

    def _parts(self) -> dict[str, str]:
        """`{folder: part}`: the sub-folders with training and with test images; "" if the folder itself has classes."""
        if posixpath.normpath(self.train_split) == posixpath.normpath(self.test_split):
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

    def _images(self, parts) -> list[ImageFile]:
        """The images in the class folders of some sub-folders; says what is left out."""
        images, reasons, left_out = [], [], defaultdict[str, list[str]](list)
        for path, class_name, part, size in progress(self._files(parts, left_out)):
            try:
                images.append(ImageFile(path, class_name, part, size, *check_file(f"{self.path}/{path}")))
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
        damaged = unusable_examples(self._split(images, {image.class_name for image in images}))
        left_out["damaged"] += [images[i].path for i in damaged]
        return [image for i, image in enumerate(images) if i not in damaged]

    def _files(self, parts, left_out) -> list[tuple[str, str, str, int]]:
        """`(path, class name, part, bytes)` of all files in the class folders of some sub-folders."""
        found = []
        if "" not in parts:
            left_out["folders"] += sorted(set(_folders(self.path)) - {folder.split("/")[0] for folder in parts})
        for folder, part in parts.items():
            for entry in _entries(self.path / folder):
                path = posixpath.join(folder, entry.name)
                if entry.is_dir():
                    files = _files_below(self.path, path, left_out)
                    found += [(file, entry.name, part, size) for file, size in files]
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
