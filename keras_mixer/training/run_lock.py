"""One process at a time on a run directory."""

import contextlib
import datetime
import json
import os
import socket

try:
    import fcntl
except ImportError:  # Windows has no such locks; runs are not protected from each other there
    fcntl = None  # type: ignore[assignment]


class RunInUse(OSError):
    """Another process works on the run."""


@contextlib.contextmanager
def locked(path, log=print):
    """Holds a lock file while the block runs; the system frees it when the process ends, however it ends.

    Args:
        path: the lock file, which tells who holds it; removed at the end of the block.
        log: called with a line of text when the lock of a process that was killed is taken over, and where the
            file system has no locks.

    Raises:
        RunInUse: another process holds it; says which, where, and since when.

    Source: ours, around `flock`; Linux extends it between machines on NFS (not tested here).
    """
    if fcntl is None:
        yield
        return
    file = _acquire(path, log)
    try:
        file.seek(0)
        if before := _holder(file):
            log(f"The run was left by {before}, which has ended; its lock is taken over.")
        file.truncate(0)
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still locked
        file.close()


def _acquire(path, log):
    """The open lock file, locked where the file system can."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file  # else its last holder removed it between the two lines above
        except BlockingIOError as error:
            file.seek(0)
            holder = _holder(file) or "another process"
            file.close()
            raise RunInUse(
                f"The run directory {path.parent} is in use by {holder}. Wait until it has ended, stop it, or choose "
                "another --workdir."
            ) from error
        except OSError as error:
            log(
                f"The run directory {path.parent} cannot be locked ({error.strerror or error}). Make sure that no "
                "other process trains in it."
            )
            return file
        file.close()


def _holder(file):
    """Who an open lock file says holds it; nothing where it is empty."""
    try:
        content = json.load(file)
        return f"process {content['process']} on {content['host']} since {content['since']}"
    except (ValueError, KeyError, TypeError):
        return ""
