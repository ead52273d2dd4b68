"""Folders in object stores, such as gs://bucket/run: a local copy, fetched first and sent back as it changes."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.implementations.dirfs import DirFileSystem

from keras_mixer.files import UNFINISHED, as_address

NO_STORE = ("file:", "hf://", "http://", "https://")  # the Hub and the web, which `weights.downloads` reads or refuses
IMMUTABLE_SUFFIXES = (".npz", ".keras")  # files that are complete when they get their name, and may be large
SENT_LAST = "results.json"  # its presence says that the run is finished
LOCAL_ONLY = (UNFINISHED, "run.lock")  # names that stay on this machine
ADDRESSES: dict[str, str] = {}  # by path, of the local copies for reading that this process has made
TRAINING_ONLY = ("checkpoints/", "tensorboard/", "best.npz")  # not needed to look at a run


def as_addresses(text) -> str:
    """A path or a text for the user, where addresses stand for the local copies of what they name."""
    for copy, address in ADDRESSES.items():
        text = str(text).replace(copy, address)
    return str(text)


class Mirror:
    """A local copy of a folder, or of one object, in an object store. One process at a time may write to it."""

    def __init__(self, address, copy=None):
        if address.startswith(NO_STORE):
            raise ValueError(f"{address} is not a path on this machine, nor a folder in an object store.")
        system, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        self.objects = DirFileSystem(root, system)  # its paths start at the address
        self.keep_copy = False
        self.copy = Path(copy or tempfile.mkdtemp(prefix="keras-mixer-"))
        self.sent: dict[str, tuple[int, int]] = {}  # names of objects, and how the files equal to them looked

    def names(self) -> list[str]:
        """Paths of the objects in the folder; the empty path if the address is that of an object."""
        try:
            return sorted(self.objects.find(""))
        except FileNotFoundError:
            return []

    def fetch(self, names):
        """Copies objects into the copy."""
        files = {name: self.copy / name for name in names}
        self.objects.get(list(files), list(map(str, files.values())))
        self.sent |= {name: _state(file) for name, file in files.items()}

    def send(self):
        """Brings the object store up to date: what is new or changed here, and what is gone."""
        paths = {path.relative_to(self.copy): path for path in self.copy.rglob("*") if path.is_file()}
        files = {n.as_posix(): path for n, path in paths.items() if not any(p.startswith(LOCAL_ONLY) for p in n.parts)}
        for name in sorted(files, key=lambda name: (name == SENT_LAST, name)):
            path, state = files[name], _state(files[name])
            if self.sent.get(name) == state:
                continue
            if path.suffix in IMMUTABLE_SUFFIXES:
                self.objects.put_file(str(path), name)
            else:
                self.objects.pipe_file(name, path.read_bytes())  # it may grow meanwhile
            self.sent[name] = state
        for name in self.sent.keys() - files.keys():
            with contextlib.suppress(FileNotFoundError):
                self.objects.rm_file(name)
            del self.sent[name]

    def close(self):
        """Removes the copy, unless `keep_copy` was set."""
        if not self.keep_copy:
            shutil.rmtree(self.copy, ignore_errors=True)


def _state(file):
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def local_copy(path) -> Iterator[Path]:
    """A path on this machine: the path itself, or a copy, of a run without checkpoints; its changes are uploaded."""
    address = as_address(path)
    if address is None or address.startswith(NO_STORE):
        yield Path(str(path) if address is None else address.removeprefix("file://")).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="keras-mixer-") as temporary:
        mirror = Mirror(address, Path(temporary, address.rpartition("/")[2]))
        names = mirror.names()
        if names != [""] and "config.json" not in names:  # a folder of anything, which may be huge
            raise ValueError(f"There is no run at {address}.")
        mirror.fetch(name for name in names if not name.startswith(TRAINING_ONLY + LOCAL_ONLY))
        ADDRESSES[str(mirror.copy)] = address
        yield mirror.copy
        if mirror.copy.is_dir():
            mirror.send()
