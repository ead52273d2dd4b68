"""What is seen to before Keras reads weights from HDF5: nothing points to other files, nothing claims to be huge."""

import io
import zipfile

import h5py

from keras_mixer.weights.archives import refuse_bomb

WEIGHTS = "model.weights.h5"  # inside a `.keras` file
CONFIG, LARGEST_CONFIG = "config.json", 100_000_000  # bytes; that of H/14 has about 60,000
LOCAL_HEADER = 30  # bytes of a zip member before its name


def check_keras(path):
    """Looks through a `.keras` file without building what is in it.

    Raises:
        ValueError: it is no zip archive, unpacks to far more than its size, or its weights fail as in `check_hdf5`.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            refuse_bomb(path, sum(member.file_size for member in archive.infolist()))
            if archive.getinfo(CONFIG).file_size > LARGEST_CONFIG:
                raise ValueError(f"{path}: {CONFIG} is larger than {LARGEST_CONFIG:,} bytes.")
            weights = archive.getinfo(WEIGHTS)
            stored = weights.compress_type == zipfile.ZIP_STORED  # as Keras writes it; zipfile itself seeks by reading
            _check(_Part(file, weights) if stored else io.BytesIO(archive.read(weights)), path)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is no readable .keras file: {error}") from error


def check_hdf5(path):
    """Looks through an HDF5 file without reading its arrays.

    An HDF5 file may name arrays in other files, and state shapes whose values it does not hold.

    Raises:
        ValueError: it does one of these, or is damaged.
    """
    _check(path, path)


def _check(file, path):
    declared = 0
    seen = set()  # a group may hold itself

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
                raise ValueError(f"{path}: the values of {item.name} lie in another file.")
            else:
                declared += item.nbytes

    try:
        with h5py.File(file, "r") as opened:
            visit(opened)
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:  # h5py at damaged files
        raise ValueError(f"{path} holds no readable HDF5 file: {error}") from error
    refuse_bomb(path, declared)


class _Part(io.RawIOBase):
    """The bytes of a stored member, as a file."""

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
