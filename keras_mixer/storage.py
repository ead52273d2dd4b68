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
ADDRESSES: dict[str, str] = {}  # by path, of the local copies for reading that this process has made
TRAINING_ONLY = ("checkpoints/", "tensorboard/", "best.npz")  # not needed to look at a run


def with_addresses(text) -> str:
    """A path or a text for the user, where addresses stand for the local copies of what they name."""
    for copy, address in ADDRESSES.items():
        text = str(text).replace(copy, address)
    return str(text)


class Mirror:
    """A local copy of a folder, or of one object, in an object store. One process at a time may write to it."""

    def __init__(self, address):
        if address.startswith(NO_STORE):
            raise ValueError(f"{address} is not a path on this machine, nor a folder in an object store.")
        system, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        self.objects = DirFileSystem(root, system)  # its paths start at the address
        self.keep_copy = False
        self.copy = Path(tempfile.mkdtemp(prefix="keras-mixer-"), address.rpartition("/")[2])
        self.sent: dict[str, tuple[int, int]] = {}  # names of objects, and how the files equal to them looked

    def names(self) -> list[str]:
        """Paths of the objects in the folder; the empty path if the address is that of an object."""
        return sorted(self.objects.find(""))

    def _files(self):
        """The names of the files to send, each with its time and size: these show whether it has changed."""
        return {
            path.relative_to(self.copy).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in self.copy.rglob("*")
            if path.is_file() and not path.name.startswith("run.lock") and UNFINISHED not in path.as_posix()
        }

    def fetch(self, names):
        """Copies objects into the copy."""
        names = list(names)
        self.objects.get(names, [str(self.copy / name) for name in names])
        self.sent = self._files()

    def send(self):
        """Brings the object store up to date: what is new or changed here, and what is gone."""
        files = self._files()
        changed = {name for name, state in files.items() if self.sent.get(name) != state}
        for name in sorted(changed, key=lambda name: (name == "results.json", name)):  # it says that a run is finished
            path = self.copy / name
            if path.suffix in IMMUTABLE_SUFFIXES:
                self.objects.put_file(str(path), name)
            else:
                self.objects.pipe_file(name, path.read_bytes())  # it may grow meanwhile
            self.sent[name] = files[name]
        for name in self.sent.keys() - files.keys():
            with contextlib.suppress(FileNotFoundError):
                self.objects.rm_file(name)
            del self.sent[name]

    def close(self):
        """Removes the copy, unless `keep_copy` was set."""
        if not self.keep_copy:
            shutil.rmtree(self.copy.parent, ignore_errors=True)


@contextlib.contextmanager
def local_copy(path) -> Iterator[Path]:
    """A path on this machine: the path itself, or a copy of a run in a store, with what is needed to look at it."""
    address = as_address(path)
    if address is None or address.startswith(NO_STORE):
        yield Path(path).expanduser()
        return
    with contextlib.closing(Mirror(address)) as mirror:
        names = mirror.names()
        if names != [""] and "config.json" not in names:  # a folder of anything, which may be huge
            raise ValueError(f"There is no run at {address}.")
        mirror.fetch(name for name in names if not name.startswith(TRAINING_ONLY))
        ADDRESSES[str(mirror.copy)] = address
        yield mirror.copy
        mirror.send()
