"""Reads `.npz` and `.safetensors` files from untrusted sources: headers first, nothing is executed."""

import dataclasses
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

LARGEST_HEADER = 10_000  # bytes; NumPy writes about 100
MOST_COMPRESSED = (
    100  # largest ratio of unpacked to packed size; trained weights compress to 90 %, zeros to almost nothing
)
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that NumPy writes
SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a file, not yet read.

    Attributes:
        origin: its name in the file, for messages.
        shape: according to the header.
        read: returns the array as float16, bfloat16, float32 or float64.
    """

    origin: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def transposed(self, *axes) -> "Entry":
        """The same array with its axes in another order."""
        shape = tuple(self.shape[axis] for axis in axes)
        return Entry(self.origin, shape, lambda: self.read().transpose(axes))

    def squeezed(self) -> "Entry":
        """The same array without its axes of length 1."""
        return Entry(self.origin, tuple(side for side in self.shape if side != 1), lambda: self.read().squeeze())


def open_arrays(path) -> dict[str, Entry]:
    """The arrays of an `.npz` or `.safetensors` file by name. Only headers are read.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged, or an array is not of floating-point numbers; the message names file and array.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(set(names)) < len(names):
                raise ValueError(f"{path} has two arrays of the same name: {max(names, key=names.count)}.")
            refuse_bomb(path, sum(member.file_size for member in members))
            return {member.filename.removesuffix(".npy"): _npz_entry(path, archive, member) for member in members}
    except (zipfile.BadZipFile, OSError, UnicodeError, OverflowError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a readable .npz file: {error}.") from error


def refuse_bomb(path, unpacked):
    """Raises ValueError if a file would unpack to far more than weights do; call it before anything is unpacked."""
    size = Path(path).stat().st_size
    if unpacked > MOST_COMPRESSED * size:
        raise ValueError(
            f"{path} has {size:,} bytes but says that it unpacks to {unpacked:,}, more than {MOST_COMPRESSED} times as "
            "many, which trained weights never do. If it is correct, save the file without compression."
        )


def _npz_entry(path, archive, member) -> Entry:
    name = member.filename.removesuffix(".npy")
    if member.compress_type not in COMPRESSIONS:
        raise ValueError(
            f"{path}: array {name!r} uses compression method {member.compress_type}, which NumPy does not write."
        )
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = header(file, max_header_size=LARGEST_HEADER)
            start = file.tell()
    except Exception as error:  # NumPy's parser raises many types, from TokenError to MemoryError
        raise ValueError(f"{path}: the header of array {name!r} is not readable ({error}).") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"{path}: array {name!r} has the impossible shape {shape}.")
    if dtype == np.dtype("V2"):  # NumPy writes bfloat16, which it does not know, this way
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"{path}: expected floating-point numbers in array {name!r}, got {dtype}.")
    size = math.prod(shape) * dtype.itemsize
    if member.file_size != start + size:
        raise ValueError(
            f"{path}: array {name!r} of shape {shape} needs {size} bytes but has {member.file_size - start}."
        )

    def read():
        try:
            with zipfile.ZipFile(path) as again, again.open(member) as file:
                file.read(start)
                content = file.read(size)
                file.read(1)  # at the end zipfile compares the checksum
        except Exception as error:  # from zipfile or zlib
            raise ValueError(f"{path}: array {name!r} is damaged ({error}).") from error
        if len(content) != size:
            raise ValueError(f"{path}: array {name!r} ends after {len(content)} of {size} bytes.")
        array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="), copy=False)

    return Entry(name, tuple(shape), read)


def _open_safetensors(path) -> dict[str, Entry]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            headers = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable .safetensors file: {error}.") from error
    for name, (_, dtype) in headers.items():
        if dtype not in SAFETENSORS_FLOATS:
            raise ValueError(f"{path}: expected floating-point numbers in array {name!r}, got {dtype}.")

    def reader(name):
        def read():
            with safetensors.safe_open(path, framework="np") as file:
                return file.get_tensor(name)

        return read

    return {name: Entry(name, shape, reader(name)) for name, (shape, _) in headers.items()}
