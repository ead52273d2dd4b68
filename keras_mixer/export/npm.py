"""Packages of the npm registry, as files for a web page: pinned, verified and cached."""

import dataclasses
import hashlib
import os
import tarfile

from keras_mixer.weights.downloads import cached_download

REGISTRY = "https://registry.npmjs.org"


@dataclasses.dataclass(frozen=True)
class Package:
    """One version of a package.

    Attributes:
        name: such as "@litertjs/core".
        version: exact.
        sha512: of its archive, hexadecimal; the registry's `integrity`.
    """

    name: str
    version: str
    sha512: str

    @property
    def file(self) -> str:
        """The name of its archive."""
        return f"{self.name.split('/')[-1]}-{self.version}.tgz"


def package_files(package: Package) -> dict[str, bytes]:
    """The files of a package by their paths inside it; downloaded on first use into Keras's cache (`KERAS_HOME`).

    `NPM_CONFIG_REGISTRY` names another registry, as for npm. On a machine without internet, put the archive that
    `npm pack` writes into the cache.

    Raises:
        OSError: the download failed.
        ValueError: the downloaded or cached file is not the pinned archive.
    """
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
    url = f"{registry.rstrip('/')}/{package.name}/-/{package.file}"
    name = package.name.replace("/", "-").lstrip("@") + f"-{package.version}.tgz"
    cached = cached_download(url, name, lambda file: _verify(file, package, url))
    _verify(cached, package, f"{cached}; remove it to download it again")
    with tarfile.open(cached) as archive:
        members = {member.name.removeprefix("package/"): archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in members.items() if file}


def _verify(file, package, where):
    if hashlib.sha512(file.read_bytes()).hexdigest() != package.sha512:
        raise ValueError(f"This is not the archive of {package.name} {package.version} (SHA-512 differs): {where}.")
