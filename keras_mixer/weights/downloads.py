"""Files on the Hugging Face Hub: `hf://` addresses, downloaded into the cache of huggingface_hub."""

import os
import re
from pathlib import Path
from typing import Any

from keras_mixer.files import as_address

HUB = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
HUB_PAGE = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/([^?]+).*")
WEIGHTS = ["*.keras", "*.safetensors", "*.npz"]  # one of them in a repository is what is meant
KNOWN = (".keras", ".safetensors", ".npz", ".weights.h5", ".tflite", ".onnx")


def local(source):
    """The downloaded file for an `hf://owner/name[@revision][/file]` address; every other source unchanged.

    Without a file, the repository must have exactly one weights file. ValueError for another address or file, OSError
    if the download fails.
    """
    address = as_address(source) or ""
    if address.startswith(("https://", "http://")):
        page = HUB_PAGE.fullmatch(address)
        use = f"Use hf://{page[1]}@{page[2]}/{page[3]}." if page else "Download the file, and pass its path."
        raise ValueError(f"Files are not read from web addresses, got {address}. {use}")
    if not address.startswith("hf://"):
        return source
    match = HUB.fullmatch(address)
    if match is None or ".." in address:
        raise ValueError(f"Expected hf://owner/name[@revision][/file], got {address}.")
    if match["file"] and not match["file"].endswith(KNOWN):
        raise ValueError(f"Expected a file that ends in {', '.join(KNOWN)}, got {address}.")
    import huggingface_hub  # takes half a second, needed only here

    place: dict[str, Any] = {"revision": match["revision"], "endpoint": os.environ.get("HF_ENDPOINT")}
    try:
        if match["file"]:
            return Path(huggingface_hub.hf_hub_download(match["repository"], match["file"], **place))
        folder = Path(huggingface_hub.snapshot_download(match["repository"], allow_patterns=WEIGHTS, **place))
    except Exception as error:  # of its HTTP library, which differs between versions
        status = getattr(getattr(error, "response", None), "status_code", 0)
        again = "" if 400 <= status < 500 else " Run the command again to retry."
        raise OSError(f"Downloading {address} failed: {' '.join(str(error).split())}{again}") from error
    found = sorted(file for pattern in WEIGHTS for file in folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(file.relative_to(folder).as_posix() for file in found) or "none"
        raise ValueError(f"Expected one weights file in {address}, got {names}. Name one: hf://owner/name/file.")
    return found[0]
