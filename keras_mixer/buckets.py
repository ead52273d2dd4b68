"""Folders in object stores, such as gs://bucket/folder: whatever fsspec opens."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_mixer.files import as_address, atomic_write

ELSEWHERE = ("hf", "http", "https")  # addresses with their own rules
PIECE = 2**24  # bytes that are read at a time
NOT_COPIED = ("checkpoints/", "tensorboard/", "run.lock")  # of a run, for commands that only look at it
PACKAGES = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}  # protocols and the extras that install their packages


def address_of(path) -> str | None:
    """`protocol://folder` for an address that fsspec opens, also if `Path` has shortened it; None for other paths."""
    address = as_address(path)
    return None if address is None or address.split(":")[0] in ELSEWHERE else address


class BucketFolder:
    """A folder in an object store. Every object appears complete or not at all; there is no rename.

    Args:
        address: `gs://bucket/folder`, or an address of another file system that fsspec knows.

    Raises:
        ValueError: the file system is unknown, or its package is missing.

    Source: ours, on fsspec.
    """

    def __init__(self, address):
        import fsspec

        self.address = address
        protocol = address.split("://")[0]
        try:
            # Without its cache of listings, the files of other machines are seen.
            options = {"use_listings_cache": False} | ({"auto_mkdir": True} if protocol == "file" else {})
            self.system, self.root = fsspec.core.url_to_fs(address, **options)
        except (ImportError, ValueError) as error:
            if protocol in PACKAGES:
                extra = f"keras-mixer[{PACKAGES[protocol]}]"
                raise ValueError(f"{address} needs another package: pip install '{extra}'. ({error})") from error
            raise ValueError(f"{address} cannot be opened: {error}.") from error

    def sizes(self) -> dict[str, int]:
        """Size in bytes of each object by its path in the folder, or of the one object that has the address itself."""
        try:
            found = self.system.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        root = self.root.rstrip("/") + "/"
        names = {path: path.removeprefix(root) if path.startswith(root) else path.rpartition("/")[2] for path in found}
        return {names[path]: entry["size"] for path, entry in found.items()}

    def read(self, name) -> bytes | None:
        """The content of an object; None if there is none."""
        try:
            return self.system.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def write(self, name, content: bytes):
        """Writes an object, replacing one of that name."""
        self.system.pipe_file(self._path(name), content)

    def create(self, name, content: bytes) -> bool:
        """Writes an object unless one of that name exists: the only operation that decides between two writers."""
        try:
            self.system.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def upload(self, file, name):
        """Copies a local file to an object, replacing one of that name."""
        self.system.put_file(str(file), self._path(name))

    def download(self, name, folder: Path) -> Path:
        """Copies an object to the same path in a local folder; the file gets its name when it is complete."""
        target = folder / name
        with (
            atomic_write(target) as temporary,
            self.system.open(self._path(name), "rb") as source,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, PIECE)
        return target

    def delete(self, name):
        """Removes an object if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self._path(name))

    def _path(self, name):
        return f"{self.root.rstrip('/')}/{name}"


@contextlib.contextmanager
def local_copy(path, only=None) -> Iterator[Path]:
    """A path on this machine for reading: the path itself, or for an address a copy that ends with the block.

    Of a run, checkpoints and TensorBoard files are not copied. Files that the block adds or changes are uploaded.

    Args:
        path: a local path, or the address of an object or a folder.
        only: name of the one file of a folder to copy; None for all.

    Raises:
        ValueError: there is nothing at the address.
    """
    address = address_of(path)
    if address is None:
        yield Path(path)
        return
    folder, name = BucketFolder(address), address.rpartition("/")[2]
    sizes = folder.sizes()
    with tempfile.TemporaryDirectory(prefix="keras-mixer-") as temporary:
        copy = Path(temporary, name)
        if name in sizes and len(sizes) == 1:  # fsspec lists an object as the only one at its address
            yield BucketFolder(address.removesuffix(f"/{name}")).download(name, Path(temporary))
            return
        wanted = [file for file in sizes if not file.startswith(NOT_COPIED) and only in (None, file)]
        if not wanted:
            raise ValueError(f"There is no {only or 'run'} at {address}.")
        before = {file: file_state(folder.download(file, copy)) for file in wanted}
        yield copy
        found = {file.relative_to(copy).as_posix(): file for file in copy.rglob("*") if file.is_file()}
        changed = [file for file in sorted(found) if before.get(file) != file_state(found[file])]
        for file in changed:
            folder.upload(found[file], file)
        if changed:
            print(f"Written to {address}: {', '.join(changed)}")


@contextlib.contextmanager
def written_to(folder, name) -> Iterator[Path]:
    """Where to write a file of a folder; if the folder is an address, the file is uploaded at the end of the block."""
    address = address_of(folder)
    if address is None:
        yield Path(folder, name)
        return
    with tempfile.TemporaryDirectory(prefix="keras-mixer-") as temporary:
        yield Path(temporary, name)
        BucketFolder(address).upload(Path(temporary, name), name)


def file_state(file) -> tuple[int, int]:
    """What tells a changed file from an unchanged one: the time of its last change in ns, and its size in bytes."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size
