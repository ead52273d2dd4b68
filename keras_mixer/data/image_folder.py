"""A folder of image files as a data set: one sub-folder per class."""

import dataclasses
import functools
import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from keras_mixer.data.decode import NO_PIXELS, Header, NotAnImage
from keras_mixer.data.image_files import check_files, damaged_files
from keras_mixer.data.record import TEST, TRAIN, UNUSED, ImageFile, content_sum
from keras_mixer.data.splits import Source, file_split, some, stratified_split

LOOKED_AT = 8  # images of a folder, evenly spaced, whose pixels are looked at
SYSTEM_NAMES = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "desktop.ini", "lost+found", "thumbs.db"}


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """`DIR/train/CLASS/*` and `DIR/test/CLASS/*`, or `DIR/CLASS/*`.

    What is an image is decided by opening it. Hidden and system files and folders are left out; links are followed.
    """

    path: Path
    train_split: str = "train"
    test_split: str = "test"
    crop: str | None = None  # the evaluation crop that has to accept the images
    skip_corrupt: bool = False  # leave out damaged images instead of raising; every image is decoded to find them
    log: Callable[[str], None] = print

    def source(self, test_fraction, seed) -> Source:
        """The images of the two sub-folders; without them, the seed chooses a fraction of each class to test on."""
        parts = self._parts()
        images = self._images(parts)
        classes, *of_test = [_class_names(self.path / folder) for folder in parts]
        if len(classes) < 2:
            raise self._no_classes(classes)
        if unknown := sorted({name for names in of_test for name in names} - set(classes)):
            raise ValueError(
                f"{self.path / self.test_split} has classes that {self.path / self.train_split} lacks: "
                f"{', '.join(unknown)}."
            )
        filled = {(image.part, image.class_name) for image in images if image.height}
        for (folder, part), names in zip(parts.items(), [classes, *of_test], strict=True):
            for name in names:
                if (part, name) not in filled:
                    raise ValueError(f"Class folder {self.path / folder / name} contains no images.")
        if len(parts) == 1:
            usable = [i for i, image in enumerate(images) if image.height]
            _, test = stratified_split([images[i].class_name for i in usable], test_fraction, seed)
            for i in test:
                images[usable[i]] = dataclasses.replace(images[usable[i]], part=TEST)
        self._remark(images)
        return self._source(classes, images)

    def whole(self) -> Source:
        """All images as test images; if there is a sub-folder with test images, only those in it."""
        folder = self.test_split if _folders(self.path / self.test_split) else ""
        images = self._images({folder: TEST})
        classes = sorted({image.class_name for image in images if image.height})
        if not classes:
            raise self._no_classes(classes)
        return self._source(classes, images)

    def recorded(self, record: Iterable[ImageFile], include_new=False) -> tuple[Source, dict[str, list[str]]]:
        """The recorded images that are still there, in their parts, and the paths of those that are not, or new.

        Only files that are not recorded are opened. `include_new` adds new images to the test images.
        """
        known = {image.path: image for image in record}
        in_folder = all(image.path.startswith(f"{image.class_name}/") for image in known.values())
        found, _ = self._files({"": TEST} if in_folder else {self.train_split: TRAIN, self.test_split: TEST})
        new, *_ = self._opened([file for file in found if file.path not in known])
        sizes = {file.path: file.bytes for file in found}
        kept = [image for image in known.values() if sizes.get(image.path) == image.bytes]
        used = [image for image in kept if image.part != UNUSED and self.skip_corrupt]
        checked = check_files([self.path / image.path for image in used], pixels=True)
        damaged = {image for image, header in zip(used, checked, strict=True) if isinstance(header, ValueError)}
        changes = {
            "gone": [path for path in known if path not in sizes],
            "new": [image.path for image in new],
            "changed in size": [path for path, image in known.items() if sizes.get(path, image.bytes) != image.bytes],
            "damaged": [image.path for image in used if image in damaged],
        }
        kept = [image for image in kept if image not in damaged]
        kept += new if include_new else []
        classes = {image.class_name for image in kept}
        if {image.class_name for image in known.values()} - classes:  # a class may have been renamed
            classes |= {image.class_name for image in new}
        return self._source(sorted(classes), kept), changes

    def holds(self, record: list[ImageFile]) -> bool:
        """Whether most of the recorded images are in this folder, with their names, sizes and recorded contents."""
        there = [image for image in record if image.is_in(self.path)]
        same = all(content_sum(self.path / image.path) == image.crc32 for image in there if image.crc32)
        return same and 2 * len(there) > len(record)

    def _parts(self) -> dict[str, str]:
        """`{folder: part}`: the sub-folders with training and with test images; "" if the folder itself has classes."""
        names = (self.train_split, self.test_split)
        present = [bool(_folders(self.path / name)) for name in names]
        if all(present):
            return {self.train_split: TRAIN, self.test_split: TEST}
        if not any(present):
            self._refuse_two_levels()
            return {"": TRAIN}
        there, missing = names if present[0] else names[::-1]
        others = [name for name in _folders(self.path) if name != there and _folders(self.path / name)]
        option = "--test-split" if present[0] else "--train-split"
        remedy = f"Pass {option} {' or '.join(others)}" if others else f"Add {self.path / missing}"
        raise ValueError(
            f"Image folder {self.path} has {there!r} but no {missing!r} with class folders. {remedy}, or put the class "
            f"folders directly into {self.path} to have them split."
        )

    def _refuse_two_levels(self):
        names = _folders(self.path)
        inside = sorted(set.intersection(*[set(_folders(self.path / name)) for name in names])) if names[1:] else []
        trains = [name for name in names if name.lower().startswith("train")]
        tests = [name for name in names if name.lower().startswith(("test", "val", "eval"))]
        if len(inside) >= 2 or (inside and trains and tests):
            test = (tests or names[::-1])[0]
            train = (trains or [name for name in names if name != test])[0]
            raise ValueError(
                f"Which folders are the classes? {self.path} has {some(names)}, and each of them has {some(inside)}. "
                f"If {some(inside)} are the classes, pass --train-split {train} --test-split {test}. If {some(names)} "
                "are the classes, move the images out of the folders in them."
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
        images, damaged, others = self._opened(files)
        if damaged and not self.skip_corrupt:
            raise damaged_files(list(damaged.values()))
        if damaged:
            left_out["damaged images"] = len(damaged)
        if others:
            kinds = ", ".join(suffix or "no suffix" for suffix, _ in others.most_common(5))
            left_out[f"files that are not images Pillow can read ({kinds})"] = others.total()
        if left_out:
            self.log(f"Left out of {self.path}: {'; '.join(f'{what}: {n:,}' for what, n in left_out.items())}.")
        return images + [dataclasses.replace(file, part=UNUSED) for file in damaged]

    def _files(self, parts) -> tuple[list[ImageFile], Counter[str]]:
        """All files in the class folders of some sub-folders, not opened, and what was left out."""
        left_out: Counter[str] = Counter()
        found = []
        for folder, part in parts.items():
            place = self.path / folder
            for name in _class_names(place):
                start = f"{folder}/{name}" if folder else name
                files = _files_below(place / name, start, left_out, set())
                found += [ImageFile(path, name, part, size) for path, size in files]
            visible = [name for name in os.listdir(place) if not _hidden(name)] if place.is_dir() else []
            left_out["files outside the class folders"] += len(visible) - len(_folders(place))
        if "" not in parts:
            others = sorted(set(_folders(self.path)) - {folder.split("/")[0] for folder in parts})
            left_out[f"folders ({some(others)})"] = len(others)
        return found, +left_out

    def _opened(self, files) -> tuple[list[ImageFile], dict[ImageFile, ValueError], Counter[str]]:
        """The images among files, damaged images with the reason, and how many others there are of each suffix."""
        images, damaged, others = [], {}, Counter[str]()
        paths = [os.path.join(self.path, file.path) for file in files]
        for file, header in zip(files, check_files(paths, self.crop, pixels=self.skip_corrupt), strict=True):
            if isinstance(header, Header):
                images.append(ImageFile(file.path, file.class_name, file.part, file.bytes, *header))
            elif _is_other_file(file.path, header):
                others[_suffix(file.path)] += 1
            else:
                damaged[file] = header
        return images, damaged, others

    def _remark(self, images):
        """Says which images are for training and for testing too, and which use only 12 of their 16 bits."""
        contents: dict[str, dict[tuple[int, int], str]] = {TRAIN: {}, TEST: {}}
        shared = set.intersection(*({image.bytes for image in images if image.part == part} for part in contents))
        for image in images:
            if image.part in contents and image.bytes in shared:
                crc32 = image.crc32 or content_sum(os.path.join(self.path, image.path))
                contents[image.part].setdefault((image.bytes, crc32), image.path)
        if twice := [path for content, path in contents[TEST].items() if content in contents[TRAIN]]:
            self.log(f"Training images that are test images too: {len(twice):,} ({some(twice)}).")
        for image in [image for image in images if image.height][:: len(images) // LOOKED_AT + 1]:
            with Image.open(self.path / image.path) as opened:
                if opened.mode.startswith("I;16") and np.asarray(opened).max() < 2**12:
                    self.log(f"{image.path} has 16 bits per pixel and uses 12: it is almost black. Scale it by 16.")
                    return

    def _source(self, classes, images) -> Source:
        labels = {name: label for label, name in enumerate(classes)}

        def split(part):
            chosen = [image for image in images if image.part == part]
            paths = [os.path.join(self.path, image.path) for image in chosen]
            return file_split(
                paths, [labels[i.class_name] for i in chosen], len(classes), [i.orientation for i in chosen]
            )

        name = self.path.resolve().name
        return Source(name, tuple(classes), split(TRAIN), split(TEST), folder=str(self.path), images=tuple(images))


def holds_images(path) -> bool:
    """Whether an image is among the first files below a folder."""
    some_files = itertools.islice(_files_below(path, path, Counter(), set()), 100)
    return any(isinstance(header, Header) for header in check_files([file for file, _ in some_files]))


def images_below(folder) -> list[str]:
    """Paths of the image files below a folder, in order, damaged ones too; those of other files are left out."""
    paths = [path for path, _ in _files_below(folder, folder, Counter(), set())]
    headers = check_files(paths)
    return [path for path, header in zip(paths, headers, strict=True) if not _is_other_file(path, header)]


def _is_other_file(path, header):
    """Whether a file is an image neither by its content nor by its name."""
    return isinstance(header, NotAnImage) and _suffix(path) not in _image_suffixes()


def _suffix(path):
    return os.path.splitext(path)[1].lower()


def _hidden(name):
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _folders(path) -> list[str]:
    """Names of the folders in a folder, sorted; none if it is not a folder."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:  # knows folders without asking for the status of each file
        found = [entry for entry in entries if not _hidden(entry.name)]
    return sorted(e.name for e in found if (os.path.isdir(e.path) if e.is_symlink() else e.is_dir()))


def _class_names(path) -> list[str]:
    names = _folders(path)
    for name in names:
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"The name of the class folder {name!r} in {path} is not UTF-8. Rename the folder.")
    return names


def _files_below(folder, start, left_out, seen) -> Iterator[tuple[str, int]]:
    """`(path, bytes)` of every file below a folder, in order; counts what is left out."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        left_out["links to folders already read"] += 1
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = f"{start}/{entry.name}"
        if _hidden(entry.name):
            left_out["hidden or system files and folders"] += 1
            continue
        try:
            status = entry.stat()
        except OSError:
            left_out["broken links"] += 1
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _files_below(entry.path, path, left_out, seen)
        elif stat.S_ISREG(status.st_mode):
            yield path, status.st_size
        else:
            left_out["pipes, sockets or devices"] += 1


@functools.cache
def _image_suffixes():
    """Suffixes of the formats that Pillow reads: another content means a damaged image."""
    return {
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in NO_PIXELS
    }
