"""Downloads: https only, redirects included, and never more than was asked for."""

import ipaddress
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException

TIMEOUT_SECONDS = 60  # without a byte
CHUNK = 1 << 20


def download(url, file, largest, progress=False):
    """Writes what is at `url` to an open binary file; by the proxy of the environment, certificates checked.

    Args:
        url: an https address; plain http only where it does not leave this machine.
        file: open for writing.
        largest: bytes after which the download is given up.
        progress: show a progress bar on standard error.

    Raises:
        OSError: it failed, was cut off or grew too large. What was written so far is to be thrown away.
        ValueError: the address is not https; one that redirects to another kind fails with OSError.

    Source: ours.
    """
    from tqdm.auto import tqdm  # `import keras_mixer` reaches this file, and needs no progress bar

    if not _is_safe(url):
        raise ValueError(f"Downloads are by https only, unlike {url}.")
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
        raise OSError(f"Downloading {url} failed: {error}. Run again to try again.") from error


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not _is_safe(newurl):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_safe(url):
    """Whether an address is https, or http to this machine itself."""
    parts = urllib.parse.urlsplit(str(url))
    if parts.scheme != "http":
        return parts.scheme == "https"
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
