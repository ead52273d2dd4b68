"""Files on the Hugging Face Hub: `hf://` addresses, downloaded into the cache of huggingface_hub."""

import os
import re
from pathlib import Path
from typing import Any

from keras_mixer.files import as_address

HUB = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
WEIGHTS = ["*.keras", "*.safetensors", "*.npz"]  # one of them in a repository is what is meant
KNOWN = (".keras", ".safetensors", ".npz", ".weights.h5", ".tflite", ".onnx")


def local(source):
    """The downloaded file for an `hf://owner/name[@revision][/file]` address; every other source unchanged.

    Without a file, the repository must have exactly one weights file. ValueError for another address or file, OSError
    if the download fails.
    """
    address = as_address(source) or ""
    if not address.startswith(("hf://", "https://", "http://")):
        return source
    match = HUB.fullmatch(address)
    if match is None or ".." in address:
        advice = "Files at other web addresses are not read: download them, and pass their path."
        raise ValueError(f"Expected hf://owner/name[@revision][/file] on the Hugging Face Hub, got {address}. {advice}")
    if match["file"] and not match["file"].endswith(KNOWN):
        raise ValueError(f"Expected a file that ends in {', '.join(KNOWN)}, got {address}.")
    import huggingface_hub  # takes half a second, needed only here

    place: dict[str, Any] = {"revision": match["revision"], "endpoint": os.environ.get("HF_ENDPOINT")}
    try:
        if match["file"]:
            return Path(huggingface_hub.hf_hub_download(match["repository"], match["file"], **place))
        folder = Path(huggingface_hub.snapshot_download(match["repository"], allow_patterns=WEIGHTS, **place))
    except Exception as error:  # of its HTTP library, which differs between versions
        raise OSError(f"Downloading {address} failed: {' '.join(str(error).split())}") from error
    found = sorted(file for pattern in WEIGHTS for file in folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(file.relative_to(folder).as_posix() for file in found) or "none"
        raise ValueError(f"Expected one weights file in {address}, got {names}. Name one: hf://owner/name/file.")
    return found[0]
