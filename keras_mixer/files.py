"""Files and folders written atomically: complete or absent, whatever stops the program while it writes."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pydantic_core

ADDRESS = re.compile(r"(?P<protocol>[A-Za-z][\w.+:-]+):/+(?P<rest>.*)")  # Path makes gs:/ of gs://; C:/ is a drive
UNFINISHED = ".writing-"  # start of the names of staging folders


def as_address(path) -> str | None:
    """`protocol://rest` for an address, also if `Path` has shortened it; None for a path on this machine."""
    match = ADDRESS.fullmatch(path.as_posix() if isinstance(path, Path) else str(path))
    return f"{match['protocol']}://{match['rest'].rstrip('/')}" if match else None


def refuse_existing(*paths):
    """Raises ValueError if a path exists or is an address; call it before any work whose result goes there."""
    for path in filter(None, paths):
        if address := as_address(path):  # `Path` would make a folder named gs:
            raise ValueError(f"{address} is not a path on this machine. Write to one, then copy the result there.")
        if Path(path).exists():
            raise ValueError(f"{path} exists already and is not overwritten; remove it or choose another name.")


@contextlib.contextmanager
def atomic_write(path) -> Iterator[Path]:
    """A path to write a file or folder to; at the end of the block it becomes `path`, and replaces a file there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
        written = Path(folder, path.parent.resolve().name, path.name)  # a SavedModel stores its folder's name
        written.parent.mkdir(exist_ok=True)  # in the root of a disk it has no name
        yield written
        if written.is_file():  # on disk before it gets its name: a power failure leaves the old content or the new
            with written.open("r+b") as file:
                os.fsync(file)
        os.replace(written, path)


def write_json(path, content):
    """Writes plain data as a JSON file, atomically; numbers that are not finite, which JSON does not know, as null."""
    with atomic_write(path) as temporary:
        plain = pydantic_core.to_jsonable_python(content, inf_nan_mode="null")
        temporary.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
