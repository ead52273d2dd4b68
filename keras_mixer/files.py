"""Files that appear whole or not at all, whatever stops the program while it writes."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def refuse_existing(path):
    """Raises ValueError when something is at `path`: call it before any work that ends there."""
    if Path(path).exists():
        raise ValueError(f"{path} exists already and is not overwritten; remove it or choose another name.")


@contextlib.contextmanager
def whole(path) -> Iterator[Path]:
    """A path to write a file or folder to; at the end of the block it becomes `path`, a file replacing what was there.

    A file has reached the disk before it gets its name, so a power failure leaves the old content or the new.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    if os.name == "posix":  # the name itself is on the disk once its folder is
        entry = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


def write_json(path, content):
    """Writes plain data as a JSON file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
