"""Packages of the npm registry, as files to put into a web page: pinned, checked, kept for the next time."""

import dataclasses
import hashlib
import io
import os
import tarfile
from pathlib import Path

from keras_mixer.downloads import download
from keras_mixer.files import atomic_write

REGISTRY = "https://registry.npmjs.org"
LARGEST_ARCHIVE = 100_000_000  # bytes; that of LiteRT.js has 12 million


@dataclasses.dataclass(frozen=True)
class Package:
    """One version of a package.

    Attributes:
        name: such as "@litertjs/core".
        version: exact.
        sha512: of its archive, hexadecimal; the registry's own `integrity`.
    """

    name: str
    version: str
    sha512: str

    @property
    def file(self) -> str:
        """Name of its archive."""
        return f"{self.name.split('/')[-1]}-{self.version}.tgz"


def package_files(package: Package) -> dict[str, bytes]:
    """The files of a package by their paths inside it; downloaded at first use into Keras's cache (`KERAS_HOME`).

    `NPM_CONFIG_REGISTRY` names another registry, as for npm itself. On a machine without internet put the archive, as
    `npm pack` writes it, into the cache.

    Raises:
        OSError: the download failed.
        ValueError: what came, or lies in the cache, is not the archive that was pinned.
    """
    home = os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser()
    cached = Path(home, "keras_mixer", package.name.replace("/", "-").lstrip("@") + f"-{package.version}.tgz")
    content = cached.read_bytes() if cached.is_file() else _download(package)
    if hashlib.sha512(content).hexdigest() != package.sha512:
        where = f"{cached}; remove it to download it again" if cached.is_file() else _url(package)
        raise ValueError(f"This is not the archive of {package.name} {package.version} (SHA-512 differs): {where}.")
    if not cached.is_file():
        with atomic_write(cached) as temporary:
            temporary.write_bytes(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {member.name.removeprefix("package/"): archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in members.items() if file}


def _url(package):
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
    return f"{registry.rstrip('/')}/{package.name}/-/{package.file}"


def _download(package):
    content = io.BytesIO()
    download(_url(package), content, LARGEST_ARCHIVE)
    return content.getvalue()
