"""A run in an object store, such as --workdir gs://bucket/run: a local copy, uploaded after every change."""

import concurrent.futures
import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

from keras_mixer.buckets import BucketFolder, address_of, file_state
from keras_mixer.data.record import FILES
from keras_mixer.files import is_alive, refuse_address
from keras_mixer.training.lease import NAME as LEASE, leased
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run_directory import RunDirectory
from keras_mixer.training.run_lock import RunInUse

IMMUTABLE = (".npz", ".keras")  # never changed once they have their name, so they are uploaded from the disk
COPY = "keras-mixer-run"  # start of the name of a local copy
KEPT = ".writing-kept"  # marks a copy that could not be uploaded
PRIVATE = (".writing-", "run.lock")  # names that stay on this machine


def run_directory(path, recipe: Recipe) -> RunDirectory:
    """The run in a folder, or in an object store if the path is an address such as gs://bucket/run."""
    if address := address_of(path):
        return BucketRunDirectory(address, recipe)
    refuse_address(path)
    return RunDirectory(path, recipe)


class BucketRunDirectory(RunDirectory):
    """A run in an object store.

    Training reads and writes a copy on the local disk. `publish` uploads what has changed in a thread of its own, so
    that training does not wait. An object is complete or absent, and `results.json`, which marks the run as finished,
    is written last; so whatever stops the program, the next one finds a state from which it can resume. If an upload
    fails, the next one repeats it; after the last one the copy is kept, and the error names it.

    Args:
        address: `gs://bucket/run` or another address that fsspec opens.
        recipe: the recipe of the run.

    Raises:
        ValueError: as `RunDirectory`, and if the address cannot be opened.

    Source: ours.
    """

    def __init__(self, address, recipe: Recipe):
        self.bucket = BucketFolder(address)
        _remove_copies_of_killed_processes()
        self.copy = Path(tempfile.mkdtemp(prefix=f"{COPY}-{socket.gethostname()}-{os.getpid()}-"))
        self.known: dict[str, tuple[int, int]] = {}  # uploaded or downloaded files, and what they looked like
        self.uploads = concurrent.futures.ThreadPoolExecutor(1, "upload")
        self.complete = True  # whether all of the copy is in the bucket
        self.log = print
        try:
            sizes = self.bucket.sizes()
            self.names = sorted({name.split("/")[0] for name in sizes})
            finished = {"model.keras", "results.json"} <= sizes.keys()
            described = ("config.json", FILES)
            self._download([name for name in sizes if name in described or (finished and "/" not in name)])
            super().__init__(self.copy, recipe, address)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def prepared(self, needed_bytes, log=print):
        """As in `RunDirectory`; the lock is a lease in the bucket."""
        with leased(self.bucket, log) as self.lease:
            self.log = log
            self.fetch()
            with super().prepared(needed_bytes, log):
                self.upload()
                self.complete = False
                try:
                    yield
                finally:
                    self.uploads.shutdown()  # after the uploads that were begun
                    self.upload()
                    self.complete = True

    def begin(self, source, start=None):
        """As in `RunDirectory`, in the bucket too."""
        super().begin(source, start)
        self.upload()

    def fetch(self):
        """Downloads what a resumed run reads; other processes of a run call it when the first has prepared it."""
        names = self.bucket.sizes()
        self._download([name for name in names if not name.startswith("tensorboard/")])

    def publish(self):
        """Uploads all changes, in the background; what fails is reported, and repeated next time."""
        self.uploads.submit(self._try_to_upload)

    def upload(self):
        """Uploads all changes and removes from the bucket what this process has removed.

        Raises:
            RunInUse: another process has taken over the run.
            OSError: the object store cannot be reached; the message names the local copy, which is kept.
        """
        try:
            self.lease.check()
            found = {name: file for file in self.copy.rglob("*") if (name := self._name(file))}
            for name in sorted(found, key=lambda name: (name == self.results.name, name)):
                self._upload(name, found[name])
            for name in self.known.keys() - found.keys():
                self.bucket.delete(name)
                del self.known[name]
        except RunInUse:
            raise
        except Exception as error:  # from the library of the object store, which has its own types
            raise OSError(
                f"Uploading to {self.address} failed ({error}). The files are in {self.copy}; run the same command "
                "again to resume from the last upload."
            ) from error

    def close(self):
        """Removes the local copy if all of it is in the bucket; otherwise it is kept for the user."""
        self.uploads.shutdown()
        if self.complete:
            shutil.rmtree(self.copy, ignore_errors=True)
        else:
            (self.copy / KEPT).touch()

    def _try_to_upload(self):
        try:
            self.upload()
        except OSError as error:
            self.log(str(error))

    def _upload(self, name, file):
        try:
            seen = file_state(file)
            if self.known.get(name) == seen:
                return
            if file.suffix in IMMUTABLE:
                self.bucket.upload(file, name)
            else:
                self.bucket.write(name, file.read_bytes())  # in one piece: training may append to it meanwhile
            self.known[name] = seen
        except FileNotFoundError:
            if file.exists():
                raise
            # Otherwise an old checkpoint that training has just removed.

    def _download(self, names):
        for name in names:
            if not LEASE.fullmatch(name):
                self.known[name] = file_state(self.bucket.download(name, self.copy))

    def _name(self, file):
        """The object that a file becomes; None for folders and what stays on this machine."""
        parts = file.relative_to(self.copy).parts
        private = any(part.startswith(PRIVATE) for part in parts)
        return "/".join(parts) if not private and file.is_file() else None

    def _names(self):
        return self.names


def _remove_copies_of_killed_processes():
    """What they had not uploaded is repeated by the run that resumes."""
    prefix = f"{COPY}-{socket.gethostname()}-"
    for copy in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        process = copy.name.removeprefix(prefix).split("-")[0]
        if os.name == "posix" and process.isdigit() and not is_alive(int(process)) and not (copy / KEPT).exists():
            shutil.rmtree(copy, ignore_errors=True)
