"""Reads weight files from untrusted sources: nothing in them is executed, and a damaged file raises ValueError.

The parsers are those of NumPy, safetensors, h5py and Keras. Only the unpacked size is checked here, before them.
"""

import zipfile
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
import safetensors.numpy

LARGEST_RATIO = 100  # of unpacked to packed bytes; trained weights compress to 90 %, zeros to almost nothing
FLOATS = tuple(map(np.dtype, (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)))


def read_arrays(path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, `.safetensors` or `.weights.h5` file by name; of the last, those of layers."""
    path = _existing(path)
    read = {".npz": _read_npz, ".safetensors": safetensors.numpy.load_file, ".h5": _read_hdf5}[path.suffix]
    try:
        return read(path)
    except Exception as error:  # the parsers raise many types, from TokenError to MemoryError
        raise ValueError(f"{path} is not a readable {path.suffix} file: {error}") from error


def load_keras(path, compile=False):
    """The model in a `.keras` file; compiled, if it was saved so, only with `compile=True`."""
    path = _existing(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, sum(member.file_size for member in archive.infolist()))
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not match")
        return keras.saving.load_model(path, compile=compile, safe_mode=True)  # runs no code from the file
    except Exception as error:  # whatever Keras's zip, JSON, registry or HDF5 reader raises
        raise ValueError(f"{path} is not a readable .keras file: {error}") from error


def model_file(path) -> Path:
    """The `.keras` file at a path, which may be the directory of a run; ValueError if there is none."""
    file = Path(path, "model.keras") if Path(path).is_dir() else Path(path)
    if not file.is_file() or file.suffix != ".keras":
        raise ValueError(f"{path} is neither a finished run directory nor a .keras file.")
    return file


def _existing(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    return Path(path)


def _check_size(path, unpacked):
    """Raises ValueError if a file would unpack to far more than weights do; call it before anything is unpacked."""
    size = path.stat().st_size
    if unpacked > LARGEST_RATIO * size:
        found = f"it has {size:,} bytes but says that it unpacks to {unpacked:,}, as trained weights never do"
        raise ValueError(f"{found}. If it is correct, save the file without compression.")


def _read_npz(path):
    with zipfile.ZipFile(path) as archive:
        _check_size(path, sum(member.file_size for member in archive.infolist()))
    arrays = {}
    with np.load(path, allow_pickle=False) as file:  # zipfile compares checksums while NumPy reads
        for name, array in file.items():
            if array.dtype == np.dtype("V2"):  # NumPy writes bfloat16, which it does not know, this way
                array = array.view(ml_dtypes.bfloat16)
            arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return arrays


def _read_hdf5(path):
    with h5py.File(path) as file:
        items: list = []
        file.visititems(lambda name, item: items.append((name, item)))  # but no links to other places and files
        layers = [(name, item) for name, item in items if name.startswith("layers/") and "seed_generator" not in name]
        found = {name: item for name, item in layers if isinstance(item, h5py.Dataset)}
        _check_size(path, sum(item.nbytes for item in found.values()))
        if outside := [name for name, item in found.items() if item.external or item.is_virtual]:
            raise ValueError(f"the values of {outside[0]!r} are in another file")
        return {name: item[()] for name, item in found.items()}
