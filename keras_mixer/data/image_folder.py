"""A folder of image files as a data set, one sub-folder per class, and `files.csv`: what a run knows about it.

The split into training and test images belongs to the run, not to the folder.
"""

import contextlib
import csv
import dataclasses
import functools
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
        classes = {name for folder in parts for name in self._folders(folder)}
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
        images, damaged = self._images({self.test_split if self._folders(self.test_split) else "": TEST})
        if not images:
            raise self._no_classes(())
        return self._source({image.class_name for image in images}, images + damaged)

    def recorded(self, record) -> tuple[Source, dict[str, list[str]]]:
        """The recorded images that are still there, in their parts, and the paths of those that are not, or new.

        Only files that are not recorded are opened.
        """
        known, (sizes, *_) = {image.path: image for image in record}, self._listing
        in_parts = any(not image.path.startswith(f"{image.class_name}/") for image in record)
        found, _ = self._files({self.train_split: TRAIN, self.test_split: TEST} if in_parts else {"": TEST})
        new, _ = self._opened([file for file in found if file.path not in known])
        same = [image for image in record if sizes.get(image.path) == image.bytes]
        _, damaged = self._opened([image for image in same if image.part != UNUSED] if self.skip_corrupt else [])
        changes = {
            "gone": [path for path in known if path not in sizes],
            "new": [image.path for image in new],
            "changed in size": [path for path, image in known.items() if sizes.get(path, image.bytes) != image.bytes],
            "damaged": [image.path for image in damaged],
        }
        kept = [image for image in same if image not in damaged]
        classes = {image.class_name for image in kept}
        if {image.class_name for image in record} - classes:  # a class may have been renamed
            classes |= {image.class_name for image in new}
        return self._source(classes, kept), changes

    def holds(self, record) -> bool:
        """Whether most of the recorded images are in this folder, with their names, sizes and recorded contents."""
        there = [image for image in record if self._listing[0].get(image.path) == image.bytes]
        for image in there[:: len(there) // LOOKED_AT + 1]:
            with open(self.path / image.path, "rb") as file:
                if image.crc32 and content_sum(file) != image.crc32:
                    return False
        return 2 * len(there) > len(record)

    @functools.cached_property
    def _listing(self):
        return walk(self.path)

    def _folders(self, below="") -> list[str]:
        """Names of the folders in the folder or in one below it."""
        prefix = f"{below}/" if below else ""
        inside = [folder.removeprefix(prefix) for folder in self._listing[1] if folder.startswith(prefix)]
        names = [name for name in inside if name and "/" not in name]
        for name in names:
            if name != name.encode(errors="replace").decode():
                raise ValueError(f"The name of the class folder {name!r} in {self.path} is not UTF-8. Rename it.")
        return names

    def _parts(self) -> dict[str, str]:
        """`{folder: part}`: the sub-folders with training and with test images; "" if the folder itself has classes."""
        splits = {self.train_split: TRAIN, self.test_split: TEST}
        if len(splits) < 2:
            raise ValueError(f"Expected two folders as --train-split and --test-split, got {self.test_split!r} twice.")
        there = [name for name in splits if self._folders(name)]
        if len(there) == 2:
            return splits
        inside: dict[str, list[str]] = {name: [] for name in self._folders()}
        for name, *below in (folder.split("/") for folder in self._listing[1]):
            if len(below) == 1:
                inside[name].append(below[0])
        common = set.intersection(*map(set, inside.values())) if len(inside) > 1 else ()
        trains, tests = (
            [name for name, classes in inside.items() if classes and name.lower().startswith(beginnings)]
            for beginnings in ("train", ("test", "val", "eval"))
        )
        if not (there or trains or tests or len(common) > 1):
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
        """All files in the class folders of some sub-folders, not opened, and what is left out."""
        files, _, left_out = self._listing
        found, others = [], []
        for path, size in files.items():
            folder = next((folder for folder in parts if folder and path.startswith(f"{folder}/")), "")
            class_name, *inside = path.removeprefix(f"{folder}/").split("/")
            if folder in parts and inside:
                found.append(ImageFile(path, class_name, parts[folder], size))
            else:
                others.append(path)
        return found, left_out | {"files outside the class folders": others}

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
    paths = [os.path.join(folder, path) for path in walk(folder)[0]]
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


def walk(root) -> tuple[dict[str, int], list[str], dict[str, list[str]]]:
    """The files in a folder at any depth, `{path below it: bytes}`, the folders, and by kind what is left out."""
    files, folders, left_out, seen = {}, [], defaultdict(list), set()

    def visit(path, name):
        status = None
        with contextlib.suppress(OSError):  # of a broken link
            status = os.stat(f"{root}/{path}")
        if path and (name.startswith(".") or name.lower() in SYSTEM_NAMES):
            left_out["hidden or system files and folders"].append(path)
        elif status and stat.S_ISREG(status.st_mode):
            files[path] = status.st_size
        elif not (status and stat.S_ISDIR(status.st_mode)):
            left_out["broken links, pipes, sockets or devices"].append(path)
        elif (status.st_dev, status.st_ino) in seen:
            left_out["links to folders already read"].append(path)
        else:
            seen.add((status.st_dev, status.st_ino))
            folders.append(path)
            with os.scandir(f"{root}/{path}") as entries:
                for _, inside in sorted((entry.is_symlink(), entry.name) for entry in entries):  # links last
                    visit(f"{path}/{inside}" if path else inside, inside)

    visit("", "")
    return dict(sorted(files.items())), sorted(folders), left_out
