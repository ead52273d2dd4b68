"""Reads weight files from untrusted sources: nothing in them is executed, and a damaged file raises ValueError.

The parsers are those of NumPy, safetensors, h5py and Keras. Only the unpacked size is checked here, before them.
"""

import contextlib
import zipfile
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
import safetensors.numpy

LARGEST_RATIO = 100  # of unpacked to packed bytes; trained weights compress to 90 %, zeros to almost nothing


def read_arrays(path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, `.safetensors` or `.weights.h5` file by name; of the last, those of layers."""
    path = Path(path)
    read = {".npz": _read_npz, ".safetensors": safetensors.numpy.load_file, ".h5": _read_hdf5}[path.suffix]
    with _reading(path):
        return read(path)


def load_keras(path, compile=False):
    """The model in a `.keras` file; compiled, if it was saved so, only with `compile=True`."""
    path = Path(path)
    with _reading(path):
        with zipfile.ZipFile(path) as archive:
            _check_size(path, (member.file_size for member in archive.infolist()))
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not match")
        return keras.saving.load_model(path, compile=compile, safe_mode=True)  # runs no code from the file


def model_file(path) -> Path:
    """The `.keras` file at a path, which may be the directory of a run; ValueError if there is none."""
    file = Path(path, "model.keras") if Path(path).is_dir() else Path(path)
    if not file.is_file() or file.suffix != ".keras":
        raise ValueError(f"{path} is neither a finished run directory nor a .keras file.")
    return file


@contextlib.contextmanager
def _reading(path):
    """Turns whatever a parser raises, from TokenError to MemoryError, into a ValueError that names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is not a readable {path.suffix} file: {error}") from error


def _check_size(path, sizes):
    """Raises ValueError if the parts of a file would unpack to far more than weights do; before any is unpacked."""
    packed, unpacked = path.stat().st_size, sum(sizes)
    if unpacked > LARGEST_RATIO * packed:
        found = f"it has {packed:,} bytes but says that it unpacks to {unpacked:,}, as trained weights never do"
        raise ValueError(f"{found}. If it is correct, save the file without compression.")


def _read_npz(path):
    arrays = {}
    with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:  # zipfile compares checksums meanwhile
        _check_size(path, (member.file_size for member in npz.zip.infolist()))
        for name, array in npz.items():
            if array.dtype == np.dtype("V2"):  # NumPy writes bfloat16, which it does not know, this way
                array = array.view(ml_dtypes.bfloat16)
            arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return arrays


def _read_hdf5(path):
    items: dict = {}
    with h5py.File(path) as file:
        file.visititems(items.__setitem__)  # but no links to other places and files
        found = {
            name: item
            for name, item in items.items()
            if isinstance(item, h5py.Dataset) and name.startswith("layers/") and "seed_generator" not in name
        }
        _check_size(path, (item.nbytes for item in found.values()))
        if outside := [name for name, item in found.items() if item.external or item.is_virtual]:
            raise ValueError(f"the values of {outside[0]!r} are in another file")
        return {name: item[()] for name, item in found.items()}
