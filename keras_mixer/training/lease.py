"""One process at a time in a run folder in an object store, which has no locks that end with their owner."""

import contextlib
import json
import re
import socket
import threading
import time
import uuid
from pathlib import Path

from keras_mixer.buckets import BucketFolder
from keras_mixer.files import is_alive
from keras_mixer.training.run_lock import RunInUse, describe_owner, in_use, owner_record

BEAT_SECONDS = 20.0  # object stores allow one change of an object per second
MISSED_BEATS = 3  # after which an owner counts as dead
NAME = re.compile(r"run\.lock-(\d{6})")


class Lease:
    """The right to write to a folder, renewed by a thread every `BEAT_SECONDS` until `release`.

    Each owner creates the object `run.lock-N` with the next higher N, which succeeds for only one process. An owner
    whose object has not changed for `MISSED_BEATS` beats is dead; no clocks of different machines are compared. If it
    was only asleep, it finds the higher number at its next beat and stops writing. The object of the last owner stays,
    marked as released, so that numbers never repeat.

    Args:
        folder: the folder.
        log: called with a line of text while it waits, and when it takes over.

    Raises:
        RunInUse: another process is alive; the message says which, where, and since when.

    Source: ours; the numbers are known as fencing tokens.
    """

    def __init__(self, folder: BucketFolder, log=print):
        self.folder = folder
        newest = _newest(folder)
        if newest:
            _wait_until_dead(folder, newest, log)
        self.name = f"run.lock-{newest + 1:06d}"
        self.content = owner_record() | {"boot": _boot(), "id": uuid.uuid4().hex}
        if not folder.create(self.name, self._encoded(0)):
            raise in_use(folder.address, "another process, which started at the same moment")
        self.lost: str | None = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.thread.start()

    def check(self):
        """Raises RunInUse if another process has taken over; call it before writing to the folder."""
        if self.lost is None and (newest := _newest(self.folder)) > _number(self.name):
            self.lost = describe_owner(_read(self.folder, newest)) or "another process"
        if self.lost is not None:
            raise RunInUse(
                f"The run directory {self.folder.address} was taken over by {self.lost}, because this process could "
                f"not reach it for {BEAT_SECONDS * MISSED_BEATS:.0f} s or was suspended. Nothing more is written to it."
            )

    def release(self):
        """Ends the renewal and lets the next process start at once."""
        self.stopped.set()
        self.thread.join()
        if self.lost is None:
            self.folder.write(self.name, self._encoded(0, released=True))
            for name in self.folder.sizes():
                if NAME.fullmatch(name) and _number(name) < _number(self.name):
                    self.folder.delete(name)

    def _encoded(self, beat, released=False):
        return json.dumps(self.content | {"beat": beat, "released": released}).encode()

    def _beat(self):
        beat = 0
        while not self.stopped.wait(BEAT_SECONDS):
            beat += 1
            try:
                self.check()
                self.folder.write(self.name, self._encoded(beat))
            except RunInUse:
                return
            except Exception:  # no connection: from the library of the object store, which has its own types
                continue


@contextlib.contextmanager
def leased(folder, log=print):
    """A `Lease` that is released at the end of the block."""
    lease = Lease(folder, log)
    try:
        yield lease
    finally:
        lease.release()


def _wait_until_dead(folder, number, log):
    first = _read(folder, number)
    if first is None or first.get("released"):
        return
    owner = describe_owner(first) or "another process"
    on_this_machine = first.get("host") == socket.gethostname() and first.get("boot") == _boot() != ""
    if not on_this_machine or is_alive(int(first["process"])):
        log(f"{folder.address} was last used by {owner}; waiting to see whether it is alive.")
        deadline = time.monotonic() + BEAT_SECONDS * MISSED_BEATS
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 4)
            now = _read(folder, number)
            if now is None or now.get("released"):
                return
            if now != first:
                raise in_use(folder.address, owner)
    log(f"The run was left by {owner}, which has ended; taking over its lock.")


def _boot() -> str:
    """What tells machines with the same host name apart; empty where the system does not say."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text(encoding="ascii").strip() if file.is_file() else ""


def _newest(folder) -> int:
    return max((_number(name) for name in folder.sizes() if NAME.fullmatch(name)), default=0)


def _number(name) -> int:
    return int(name.rpartition("-")[2])


def _read(folder, number):
    """The content of a lock object; None if there is none or it is not readable."""
    try:
        return json.loads(folder.read(f"run.lock-{number:06d}") or "null")
    except ValueError:
        return None
