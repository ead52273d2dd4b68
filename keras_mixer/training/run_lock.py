"""A lock that allows one process at a time in a run directory."""

import contextlib
import datetime
import json
import os
import socket

try:
    import fcntl
except ImportError:  # Windows: run directories are not locked there
    fcntl = None  # type: ignore[assignment]


class RunInUse(OSError):
    """Another process is using the run directory."""


@contextlib.contextmanager
def locked(path, log=print):
    """Holds a lock file while the block runs. The system releases it when the process ends, even if killed.

    Args:
        path: the lock file, which contains its owner; removed at the end of the block.
        log: called with a line of text if the lock of a killed process is taken over, or if the file system does not
            support locks.

    Raises:
        RunInUse: another process holds the lock; the message says which, where, and since when.

    Source: ours, around `flock`. On Linux it also works between machines over NFS (not tested).
    """
    if fcntl is None:
        yield
        return
    file = _acquire(path, log)
    try:
        file.seek(0)
        if before := _owner(file):
            log(f"The run was left by {before}, which has ended; taking over its lock.")
        file.truncate(0)
        json.dump(owner_record(), file)
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock is released
        file.close()


def _acquire(path, log):
    """The open lock file, locked if the file system supports it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file  # otherwise its last owner removed it between the two lines above
        except BlockingIOError as error:
            file.seek(0)
            owner = _owner(file) or "another process"
            file.close()
            raise in_use(path.parent, owner) from error
        except OSError as error:
            log(
                f"The run directory {path.parent} cannot be locked ({error.strerror or error}). Make sure that no "
                "other process trains in it."
            )
            return file
        file.close()


def _owner(file):
    """The owner named in an open lock file; an empty string if there is none."""
    try:
        return describe_owner(json.load(file))
    except ValueError:
        return ""


def in_use(folder, owner) -> RunInUse:
    """The error for a run directory in which an owner trains."""
    return RunInUse(
        f"The run directory {folder} is in use by {owner}. Wait for it to finish, stop it, or choose another --workdir."
    )


def owner_record():
    """This process, as it is written into a lock."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now}


def describe_owner(record) -> str:
    """The owner in the content of a lock, for people; an empty string if there is none."""
    try:
        return f"process {record['process']} on {record['host']} since {record['since']}"
    except (KeyError, TypeError):
        return ""
