"""Files that appear whole or not at all, whatever stops the program while it writes."""

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

OWNED = re.compile(r"\.writing-(?P<host>.+)-(?P<process>\d+)-\w+")  # the folder in which a process writes
ABANDONED_SECONDS = 24 * 3600  # without a change, where the process cannot be asked


def refuse_existing(path):
    """Raises ValueError when something is at `path`: call it before any work that ends there."""
    if Path(path).exists():
        raise ValueError(f"{path} exists already and is not overwritten; remove it or choose another name.")


@contextlib.contextmanager
def atomic_write(path) -> Iterator[Path]:
    """A path to write a file or folder to; at the end of the block it becomes `path`, a file replacing what was there.

    A file has reached the disk before it gets its name, so a power failure leaves the old content or the new.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".writing-{socket.gethostname()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as folder:
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


def remove_abandoned(folder):
    """Removes what processes that were killed while writing left below a folder; files in the making stay.

    A process of this machine is asked whether it is alive. What one of another machine writes stays for a day.
    """
    for unfinished in Path(folder).rglob(".writing-*"):
        owner = OWNED.fullmatch(unfinished.name)
        with contextlib.suppress(OSError):  # its owner may have finished meanwhile
            if owner and owner["host"] == socket.gethostname() and os.name == "posix":
                abandoned = not _is_alive(int(owner["process"]))
            else:
                abandoned = time.time() - unfinished.stat().st_mtime > ABANDONED_SECONDS
            if abandoned:
                shutil.rmtree(unfinished, ignore_errors=True)


def _is_alive(process):
    try:
        os.kill(process, 0)  # sends nothing; on Windows it would end the process
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_json(path, content):
    """Writes plain data as a JSON file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
