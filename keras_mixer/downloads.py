"""Downloads: https only, redirects included, with a size limit; and a cache of downloaded files."""

import ipaddress
import os
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

from keras_mixer.files import atomic_write

TIMEOUT_SECONDS = 60  # without a byte
CHUNK = 1 << 20


def cache_path(name) -> Path:
    """Where a file of that name is in Keras's cache (`KERAS_HOME`)."""
    return Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser(), "keras_mixer", name)


def cached_download(url, name, largest, check, progress=False) -> Path:
    """The file at `url`, downloaded on first use into Keras's cache.

    Args:
        url: see `download`.
        name: of the file in the cache.
        largest: size limit in bytes.
        check: called with the path of the download before it is stored; raises an error if it is unusable.
        progress: show a progress bar on standard error.

    Raises:
        OSError: the download failed; nothing is left behind.
    """
    target = cache_path(name)
    if target.is_file():
        return target
    with atomic_write(target) as temporary:
        with temporary.open("wb") as file:
            try:
                download(url, file, largest, progress)
            except OSError as error:
                raise OSError(f"{error} Without internet, put the file there by hand: {target}") from error
        check(temporary)
    return target


def download(url, file, largest, progress=False):
    """Writes the content of `url` to an open binary file, using the environment's proxy and checking certificates.

    Args:
        url: an https address; plain http is accepted only for this machine.
        file: open for writing.
        largest: size limit in bytes.
        progress: show a progress bar on standard error.

    Raises:
        OSError: the download failed, was cut off or exceeded the limit; discard what was written.
        ValueError: the address is not https (OSError if it redirects to such an address).

    Source: ours.
    """
    from tqdm.auto import tqdm  # `import keras_mixer` imports this file and needs no progress bar

    if not _is_safe(url):
        raise ValueError(f"Downloads use https only, got {url}.")
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
            announced = int(response.headers.get("Content-Length") or 0)
            bar = tqdm(total=announced or None, unit="B", unit_scale=True, desc=url, disable=not progress, leave=False)
            size = 0
            with bar:
                while chunk := response.read(CHUNK):
                    size += len(chunk)
                    if max(size, announced) > largest:
                        raise OSError(f"it is larger than {largest:,} bytes")
                    file.write(chunk)
                    bar.update(len(chunk))
            if size < announced:
                raise OSError(f"the connection ended after {size:,} of {announced:,} bytes")
    except (OSError, HTTPException, ValueError) as error:
        raise OSError(f"Downloading {url} failed: {error}. Run the command again to retry.") from error


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not _is_safe(newurl):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_safe(url):
    """Whether an address is https, or http on this machine."""
    parts = urllib.parse.urlsplit(str(url))
    if parts.scheme != "http":
        return parts.scheme == "https"
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
