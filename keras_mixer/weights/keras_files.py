"""Keras's own files, `.keras` and `.weights.h5`, from untrusted sources: checked before Keras reads them.

An HDF5 file may link to other files and declare shapes whose values it does not contain.
"""

import importlib
import io
import re
import zipfile
from pathlib import Path

import h5py
import keras

from keras_mixer.weights.archives import Entry, refuse_bomb

WEIGHTS = "model.weights.h5"  # inside a `.keras` file
CONFIG, LARGEST_CONFIG = "config.json", 100_000_000  # bytes; that of H/14 has about 60,000
OWN_MODULE = re.compile(rb'"module": "(keras_mixer(?:\.[a-z]\w*)+)"')
LOCAL_HEADER = 30  # bytes of a zip member before its name


def load_keras(path, compile=False):
    """The model in a `.keras` file; compiled, if it was saved so, only with `compile=True`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    _check_keras(path)
    try:
        _import_own_layers(path)
        return keras.saving.load_model(path, compile=compile, safe_mode=True)  # runs no code from the file
    except Exception as error:  # whatever Keras's zip, JSON, registry or HDF5 reader raises
        raise ValueError(f"{path} is not a readable .keras file: {error}") from error


def open_weights_h5(path) -> dict[str, Entry]:
    """The arrays of a `.weights.h5` file under our names, without those of an optimizer.

    Keras numbers the layers of each class, and the variables of each layer.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    _check_hdf5(path, path)
    entries: dict[str, Entry] = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and name.startswith("layers/") and "seed_generator" not in name:
            own = _own_name(name)
            entries[own if own not in entries else name] = Entry(name, item.shape, lambda: _read_h5(path, name))

    with h5py.File(path) as file:
        file.visititems(visit)
    if "stem/kernel" not in entries:
        raise ValueError(f"{path} does not contain the weights of a Mixer: it lacks layers/patch_embed/vars/0.")
    return entries


def _own_name(name):
    """`layers/mixer_block_1/layer_norm_0/vars/0 -> mixer_block_1/layer_norm_0/gamma`."""
    own = re.sub(r"^layers/mixer_block/", "layers/mixer_block_0/", name).removeprefix("layers/")
    own = re.sub(r"^(dense|classifier_head)/", "head/", own)
    own = re.sub("^patch_embed/", "stem/", re.sub("^layer_norm/", "pre_head_layer_norm/", own))
    kinds = ("gamma", "beta") if "layer_norm" in own else ("kernel", "bias")
    return re.sub(r"vars/([01])$", lambda match: kinds[int(match[1])], own)


def _read_h5(path, name):
    try:
        with h5py.File(path) as file:
            return file[name][()]
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # from h5py, if damaged
        raise ValueError(f"{path}: array {name!r} is damaged ({error}).") from error


def _import_own_layers(path):
    """Imports the modules of this package that the file names, such as the ViT's: Keras finds no others."""
    with zipfile.ZipFile(path) as archive:
        for module in sorted(set(OWN_MODULE.findall(archive.read(CONFIG)))):
            importlib.import_module(module.decode())


def _check_keras(path):
    """Raises ValueError unless `path` is a zip archive of plausible size whose weights pass `_check_hdf5`."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            refuse_bomb(path, sum(member.file_size for member in archive.infolist()))
            if archive.getinfo(CONFIG).file_size > LARGEST_CONFIG:
                raise ValueError(f"{path}: {CONFIG} is larger than {LARGEST_CONFIG:,} bytes.")
            weights = archive.getinfo(WEIGHTS)
            stored = weights.compress_type == zipfile.ZIP_STORED  # as Keras writes it; zipfile would seek by reading
            _check_hdf5(_Part(file, weights) if stored else io.BytesIO(archive.read(weights)), path)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable .keras file: {error}") from error


def _check_hdf5(file, path):
    """Raises ValueError if an HDF5 file is damaged, refers to other files, or declares far more data than it has."""
    declared = 0
    seen = set()  # a group may contain itself

    def visit(group):
        nonlocal declared
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path}: {group.name}/{name} is a link to another place or file.")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                visit(item)
            elif item.external or item.is_virtual:
                raise ValueError(f"{path}: the values of {item.name} are in another file.")
            else:
                declared += item.nbytes

    try:
        with h5py.File(file, "r") as opened:
            visit(opened)
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:  # from h5py, if damaged
        raise ValueError(f"{path} does not contain a readable HDF5 file: {error}") from error
    refuse_bomb(path, declared)


class _Part(io.RawIOBase):
    """The bytes of an uncompressed zip member, as a file."""

    def __init__(self, file, member):
        file.seek(member.header_offset + LOCAL_HEADER - 4)
        lengths = file.read(4)  # of the name and of the extra field
        self.start = member.header_offset + LOCAL_HEADER + sum(lengths[::2]) + 256 * sum(lengths[1::2])
        self.file, self.size, self.position = file, member.file_size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer):
        self.file.seek(self.start + self.position)
        content = self.file.read(max(min(len(buffer), self.size - self.position), 0))
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)
