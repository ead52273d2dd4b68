"""A folder of image files as a data set, one sub-folder per class, and `files.csv`: what a run knows about it.

The split into training and test images belongs to the run, not to the folder.
"""

import contextlib
import csv
import dataclasses
import os
import stat
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_mixer.data.decode import Header, NotAnImage, content_sum
from keras_mixer.data.image_files import check_files, damaged_files
from keras_mixer.data.splits import Source, file_split, some, stratified_split
from keras_mixer.files import atomic_write

FILES = "files.csv"
TRAIN, TEST, UNUSED = "train", "test", "unused"
LOOKED_AT = 16  # images of a folder, evenly spaced, whose content is looked at
SYSTEM_NAMES = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "desktop.ini", "lost+found", "thumbs.db"}


class ImageFile(NamedTuple):
    """One image of a folder, a line of `files.csv`; its header is as in `Header`, and zeros if it is damaged."""

    path: str  # below the folder, with "/"
    class_name: str
    part: str  # TRAIN, TEST or UNUSED
    bytes: int
    height: int = 0
    width: int = 0
    orientation: int = 0
    crc32: int = 0


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
        classes = {name for folder in parts for name in _folders(self.path / folder)}
        if len(classes) < 2:
            raise self._no_classes(classes)
        images, damaged = self._images(parts)
        if empty := sorted(classes - {image.class_name for image in images if image.part == TRAIN}):
            raise ValueError(f"Class folder {empty[0]} contains no images to train on, in {self.path}.")
        if len(parts) == 1:
            for i in stratified_split([image.class_name for image in images], test_fraction, seed)[1]:
                images[i] = images[i]._replace(part=TEST)
        self._remark(images)
        return self._source(classes, images + damaged)

    def whole(self) -> Source:
        """All images as test images; if there is a sub-folder with test images, only those in it."""
        images, damaged = self._images({self.test_split if _folders(self.path / self.test_split) else "": TEST})
        if not images:
            raise self._no_classes(())
        return self._source({image.class_name for image in images}, images + damaged)

    def recorded(self, record) -> tuple[Source, dict[str, list[str]]]:
        """The recorded images that are still there, in their parts, and the paths of those that are not, or new.

        Only files that are not recorded are opened.
        """
        known = {image.path: image for image in record}
        in_parts = any(not image.path.startswith(f"{image.class_name}/") for image in record)
        found, _ = self._files({self.train_split: TRAIN, self.test_split: TEST} if in_parts else {"": TEST})
        new, _ = self._opened([file for file in found if file.path not in known])
        sizes = {file.path: file.bytes for file in found}
        same = [image for image in record if sizes.get(image.path) == image.bytes]
        _, damaged = self._opened([image for image in same if image.part != UNUSED] if self.skip_corrupt else [])
        changes = {
            "gone": [path for path in known if path not in sizes],
            "new": [image.path for image in new],
            "changed in size": [path for path, image in known.items() if sizes.get(path, image.bytes) != image.bytes],
            "damaged": [image.path for image in damaged],
        }
        classes = {image.class_name for image in record}
        return self._source(classes, [image for image in same if image not in damaged]), changes

    def holds(self, record) -> bool:
        """Whether most of the recorded images are in this folder, with their names, sizes and recorded contents."""
        sizes = ((image, _status(self.path / image.path)) for image in record)
        there = [image for image, status in sizes if status and status.st_size == image.bytes]
        for image in there[:: len(there) // LOOKED_AT + 1]:
            with open(self.path / image.path, "rb") as file:
                if image.crc32 and content_sum(file) != image.crc32:
                    return False
        return 2 * len(there) > len(record)

    def _parts(self) -> dict[str, str]:
        """`{folder: part}`: the sub-folders with training and with test images; "" if the folder itself has classes."""
        splits = (self.train_split, self.test_split)
        if splits[0] == splits[1]:
            raise ValueError(f"Expected two folders as --train-split and --test-split, got {splits[0]!r} twice.")
        if all(_folders(self.path / name) for name in splits):
            return dict(zip(splits, (TRAIN, TEST), strict=True))
        inside = {name: _folders(self.path / name) for name in _folders(self.path)}
        common = sorted(set.intersection(*map(set, inside.values()))) if len(inside) > 1 else []
        trains, tests = (
            [name for name, classes in inside.items() if classes and name.lower().startswith(beginnings)]
            for beginnings in ("train", ("test", "val", "eval"))
        )
        if not (trains or tests or len(common) > 1):
            return {"": TRAIN}
        raise ValueError(
            f"Which folders are the classes? {self.path} has {some(list(inside))}. If the folders inside those are the "
            f"classes, pass --train-split {' or '.join(trains) or 'FOLDER'} --test-split "
            f"{' or '.join(tests) or 'FOLDER'}. If not, move the images out of the folders inside."
        )

    def _no_classes(self, names):
        return ValueError(
            f"Image folder {self.path} must contain two or more class folders with images; it contains "
            f"{', '.join(names) or 'none'}. Expected {self.path}/CLASS/*.jpg or {self.path}/train/CLASS/*.jpg with "
            f"{self.path}/test/CLASS/*.jpg."
        )

    def _images(self, parts) -> tuple[list[ImageFile], list[ImageFile]]:
        """The images in the class folders of some sub-folders, and damaged ones, which are left out; logs what is."""
        files, left_out = self._files(parts)
        images, unusable = self._opened(files)
        damaged = [file for file, reason in unusable.items() if not isinstance(reason, NotAnImage)]
        if damaged and not self.skip_corrupt:
            raise damaged_files([unusable[file] for file in damaged])
        others = [file.path for file, reason in unusable.items() if isinstance(reason, NotAnImage)]
        left_out |= {"files that are not images Pillow can read": others, "damaged images": [f.path for f in damaged]}
        if said := counted(left_out):
            self.log(f"Left out of {self.path}: {said}.")
        return images, [file._replace(part=UNUSED) for file in damaged]

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
        headers = check_files([f"{self.path}/{file.path}" for file in files], decode=self.skip_corrupt)
        found = list(zip(files, headers, strict=True))
        images = [file._replace(**header._asdict()) for file, header in found if isinstance(header, Header)]
        return images, {file: reason for file, reason in found if isinstance(reason, ValueError)}

    def _remark(self, images):
        """Says how many images are for training and for testing too, and names one that uses 12 of its 16 bits."""
        trained = {(image.bytes, image.crc32) for image in images if image.part == TRAIN}
        if twice := [i.path for i in images if i.part == TEST and (i.bytes, i.crc32) in trained]:
            self.log(f"Training images that are test images too: {len(twice):,} ({some(twice)}).")
        for image in images[:: len(images) // LOOKED_AT + 1]:
            with Image.open(self.path / image.path) as opened:
                if opened.mode.startswith("I;16") and np.asarray(opened).max() < 2**12:
                    self.log(f"{image.path} has 16 bits per pixel and uses 12: it is almost black. Scale it by 16.")
                    return

    def _source(self, classes, images) -> Source:
        labels = {name: label for label, name in enumerate(sorted(classes))}

        def split(part):
            of_part = [image for image in images if image.part == part]
            paths, turned = [f"{self.path}/{i.path}" for i in of_part], [i.orientation for i in of_part]
            return file_split(paths, [labels[image.class_name] for image in of_part], len(labels), turned)

        return Source(self.path.resolve().name, tuple(labels), split(TRAIN), split(TEST), str(self.path), tuple(images))


def images_below(folder) -> list[str]:
    """Paths of the image files below a folder, in order, damaged ones too; those of other files are left out."""
    paths = [os.path.join(folder, path) for path, _ in _files_below(folder, "", defaultdict(list))]
    return [path for path, header in zip(paths, check_files(paths), strict=True) if not isinstance(header, NotAnImage)]


def counted(kinds) -> str:
    """Such as `gone: 2 (a.png, b.png), new: 1 (c.png)`; empty if there are none of any kind."""
    return ", ".join(f"{what}: {len(paths):,} ({some(paths)})" for what, paths in kinds.items() if paths)


def write_files(path, source: Source):
    """Writes the images of a source, with the parts that they are in now, as `files.csv`."""
    parts = dict.fromkeys(source.train.files, TRAIN) | dict.fromkeys(source.test.files, TEST)
    rows = [image._replace(part=parts.get(f"{source.folder}/{image.path}", UNUSED)) for image in source.images]
    with atomic_write(path) as temporary, _as_text(temporary, "w") as file:
        csv.writer(file).writerows([ImageFile._fields, *rows])


def read_files(path) -> list[ImageFile]:
    """The images in a `files.csv`; none if there is no such file."""
    if not path.is_file():
        return []
    with _as_text(path, "r") as file:
        _, *rows = csv.reader(file)
    try:
        return [ImageFile(path, name, part, *map(int, numbers)) for path, name, part, *numbers in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). Restore it, or train again in another folder.") from error


def _as_text(path, mode):
    return open(path, mode, newline="", encoding="utf-8", errors="surrogateescape")


def _hidden(name):
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _folders(path) -> list[str]:
    """Names of the visible folders in a folder, sorted; none if it is not a folder."""
    names = []
    with os.scandir(path) if path.is_dir() else contextlib.nullcontext(()) as entries:
        for entry in entries:
            if not _hidden(entry.name) and (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()):
                names.append(entry.name)
    for name in names:
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"The name of the class folder {name!r} in {path} is not UTF-8. Rename the folder.")
    return sorted(names)


def _files_below(root, below, left_out) -> list[tuple[str, int]]:
    """`(path below root, bytes)` of every file in a folder below `root`, in order; notes what is left out."""
    found, seen = [], set()

    def visit(path):
        status = _status(f"{root}/{path}")
        if _hidden(os.path.basename(path)):
            left_out["hidden or system files and folders"].append(path)
        elif status and stat.S_ISREG(status.st_mode):
            found.append((path, status.st_size))
        elif not (status and stat.S_ISDIR(status.st_mode)):
            left_out["broken links, pipes, sockets or devices"].append(path)
        elif (status.st_dev, status.st_ino) in seen:
            left_out["links to folders already read"].append(path)
        else:
            seen.add((status.st_dev, status.st_ino))
            for name in sorted(os.listdir(f"{root}/{path}")):
                visit(f"{path}/{name}" if path else name)

    visit(below)
    return sorted(found)


def _status(path) -> os.stat_result | None:
    """What the system knows about a file or folder, links followed; None if it is not there."""
    try:
        return os.stat(path)
    except OSError:
        return None
