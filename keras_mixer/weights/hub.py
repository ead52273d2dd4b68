"""Files on the Hugging Face Hub, `hf://owner/name[@revision][/file]`: downloaded, never executed."""

import os
import re
import zipfile
from pathlib import Path

from keras_mixer.downloads import cache_path
from keras_mixer.files import atomic_write

ADDRESS = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
WEIGHTS = (".keras", ".safetensors", ".npz")
KNOWN = (*WEIGHTS, ".weights.h5", ".tflite", ".onnx")
KERAS_PARTS = ("metadata.json", "config.json", "model.weights.h5")  # what model.save("hf://...") uploads
LARGEST_FILE = 5_000_000_000  # bytes; H/14 has 1.7e9


def is_hub_address(source) -> bool:
    """Whether a source is on the Hub. `Path` makes `hf:/` of `hf://`, and is recognized too."""
    return isinstance(source, str | Path) and _text(source).startswith("hf:/")


def local(source):
    """The downloaded file for an `hf://` address; every other source unchanged.

    Args:
        source: `hf://owner/name/file`; `@revision` after the name pins a branch, tag or commit. Without a file, the
            repository must have exactly one weights file, or a model that Keras saved to the Hub.

    Returns:
        The `Path` in the cache of huggingface_hub (`HF_HOME`). `HF_ENDPOINT` names a mirror.

    Raises:
        ValueError: the address is malformed, the file is of an unknown kind or too large, huggingface_hub is missing,
            or the repository has no weights file or more than one.
        OSError: the download failed.
    """
    if not is_hub_address(source):
        return source
    address = re.sub("^hf:/+", "hf://", _text(source))
    match = ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        forms = "hf://owner/name, hf://owner/name/file or hf://owner/name@revision/file"
        raise ValueError(f"Expected {forms}, got {address}.")
    repository, revision, file = match["repository"], match["revision"], match["file"]
    if file and not file.endswith(KNOWN):
        raise ValueError(f"Expected a file that ends in {', '.join(KNOWN)}, got {address}.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(f"{address} needs huggingface_hub: pip install 'keras-mixer[hub]'.") from error
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="keras_mixer")
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True)
        sizes = {item.rfilename: item.size for item in info.siblings or ()}
    except Exception as error:  # from its HTTP library, which differs between versions
        cached = file and huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        raise _failed(address, error) from error

    def fetch(name):
        if (sizes[name] or 0) > LARGEST_FILE:
            raise ValueError(f"{name} of {address} has {sizes[name]:,} bytes, more than {LARGEST_FILE:,}.")
        try:
            path = Path(api.hf_hub_download(repository, name, revision=revision))
        except Exception as error:
            raise _failed(address, error) from error
        if sizes[name] not in (None, path.stat().st_size):
            raise _failed(address, f"{path} has {path.stat().st_size:,} of {sizes[name]:,} bytes")
        return path

    if file is None and set(KERAS_PARTS) <= set(sizes):
        return _packed([fetch(part) for part in KERAS_PARTS], f"{repository.replace('/', '--')}-{info.sha}.keras")
    return fetch(_choose(address, file, sizes))


def _text(source):
    return source.as_posix() if isinstance(source, Path) else source


def _choose(address, file, sizes):
    candidates = [name for name in sorted(sizes) if name.endswith(WEIGHTS)]
    listed = ", ".join(candidates) or "none"
    if file is not None:
        if file not in sizes:
            raise ValueError(f"There is no file {address}. Weights files of the repository: {listed}.")
        return file
    if len(candidates) != 1:
        raise ValueError(f"Expected one weights file in {address}, got {listed}. Name one: hf://owner/name/file.")
    return candidates[0]


def _packed(parts, name):
    """One `.keras` file, which is a zip archive of the three parts that Keras uploads one by one."""
    target = cache_path(name)
    if not target.is_file():
        with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for part in parts:
                archive.write(part, part.name)
    return target


def _failed(address, error):
    return OSError(f"Downloading {address} failed: {error}. Run the command again to retry.")
