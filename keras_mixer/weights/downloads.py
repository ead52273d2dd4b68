"""Files on the Hugging Face Hub: `hf://` addresses, downloaded into the cache of huggingface_hub."""

import re
from pathlib import Path

from keras_mixer.files import as_address

HUB = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
WEIGHTS = ["*.keras", "*.safetensors", "*.npz", "*.weights.h5"]  # one of them in a repository is what is meant


def local(source):
    """The downloaded file for an `hf://owner/name[@revision][/file]` address; every other source unchanged.

    Without a file, the repository must have one weights file. ValueError for another address, OSError if it fails.
    """
    address = as_address(source) or ""
    if not address.startswith(("hf://", "https://", "http://")):
        return source
    match = HUB.fullmatch(address)
    if match is None or ".." in address:
        advice = "Files at other web addresses are not read: download them, and pass their path."
        raise ValueError(f"Expected hf://owner/name[@revision][/file] on the Hugging Face Hub, got {address}. {advice}")
    import huggingface_hub  # takes half a second, needed only here

    repository, revision, file = match["repository"], match["revision"], match["file"]
    try:
        if file:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=WEIGHTS))
    except Exception as error:  # of its HTTP library, which differs between versions
        raise OSError(f"Downloading {address} failed: {' '.join(str(error).split())}") from error
    found = sorted(file for pattern in WEIGHTS for file in folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(file.relative_to(folder).as_posix() for file in found) or "none"
        raise ValueError(f"Expected one weights file in {address}, got {names}. Name one: hf://owner/name/file.")
    return found[0]
