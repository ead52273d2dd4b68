"""The folder of one training run, and the rules that protect its content."""

import contextlib
import csv
import dataclasses
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from keras_mixer.data.record import FILES, ImageFile, read_files, write_files
from keras_mixer.data.sources import image_folder
from keras_mixer.data.splits import Source
from keras_mixer.fields import differences
from keras_mixer.files import atomic_write, remove_abandoned, write_json
from keras_mixer.training.checkpoints import list_checkpoints
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run_lock import locked


class RunDirectory:
    """`config.json`, `checkpoints/`, `tensorboard/`, `metrics.csv`, `model.keras`, `results.json` of one run.

    In addition, `start.json` stores what a resumed run needs to know about its start, and `files.csv` the images of a
    folder with the part that they are in. The folder belongs to no recipe before `begin`.

    Args:
        path: the folder; it need not exist.
        recipe: the recipe of the run.
        address: what to call the folder in messages; None for `path`.

    Raises:
        ValueError: the folder has another configuration; the message names the fields that differ.

    Source: ours.
    """

    def __init__(self, path, recipe: Recipe, address=None):
        self.path = Path(path)
        self.recipe = recipe
        self.address = str(address or path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.metrics = self.path / "metrics.csv"
        self.model = self.path / "model.keras"
        self.results = self.path / "results.json"
        self.start = self.path / "start.json"
        self.files = self.path / FILES
        self.lock = self.path / "run.lock"
        self._check_configuration()

    @property
    def finished(self):
        """Whether the run has finished."""
        return self.results.is_file() and self.model.is_file()

    @contextlib.contextmanager
    def prepared(self, needed_bytes, log=print):
        """Locks the folder while the block runs.

        Args:
            needed_bytes: disk space that the run needs.
            log: called with each line of text for the user.

        Raises:
            OSError: the folder is not writable, or the disk has too little space.
            RunInUse: (an OSError) another process trains in the folder.
        """
        try:
            self._check_writable(needed_bytes)
            with locked(self.lock, log):
                self._check_configuration()  # another process may have written it meanwhile
                remove_abandoned(self.path)
                yield
        finally:
            if not self.config.is_file():
                with contextlib.suppress(OSError):  # of what other files are in
                    self.checkpoints.rmdir()
                    self.path.rmdir()

    def begin(self, source: Source, start=None):
        """Makes the folder that of this recipe; called when nothing but training is left to do.

        Args:
            source: the data.
            start: content of `start.json`; None if there is none.
        """
        write_json(self.config, _as_data(self.recipe))
        if source.images:
            write_files(self.files, source)
        if start is not None:
            write_json(self.start, start)

    def record(self) -> list[ImageFile]:
        """The image files that the run has learnt from, and tests on; empty before the first checkpoint."""
        return read_files(self.files) if list_checkpoints(self.checkpoints) else []

    def publish(self):
        """Called after each change; where the folder is a copy, it brings the original up to date."""

    def fetch(self):
        """Called by processes that only read, when the first process has prepared the folder."""

    def close(self):
        """Called when the run is no longer needed."""

    def write_results(self, results):
        """Writes `results.json` atomically."""
        write_json(self.results, results)

    def read_results(self):
        """The content of `results.json`."""
        return read_results(self.path)

    def read_metrics(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv` by name, one value per epoch; empty if there is no file."""
        return read_metrics(self.metrics)

    def append_metrics(self, row):
        """Appends one epoch to `metrics.csv`."""
        new = not self.metrics.is_file()
        with self.metrics.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def drop_metrics_after(self, step):
        """Removes the rows of epochs that a resumed run will repeat, and an incomplete last line."""
        if not self.metrics.is_file():
            return
        rows = _rows(self.metrics)
        kept = [row for row in rows if float(row["step"]) <= step]
        if not kept:
            self.metrics.unlink()
            return
        with atomic_write(self.metrics) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)

    def _check_writable(self, needed_bytes):
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"x" * 4096)
                probe.flush()
        except OSError as error:
            raise OSError(
                f"The run directory {self.address} cannot be written ({error.strerror or error}). Choose another "
                "folder with --workdir, or free disk space."
            ) from error
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise OSError(
                f"The run directory {self.address} needs about {needed_bytes / 1e6:,.0f} MB for model and checkpoints, "
                f"but its disk has {free / 1e6:,.0f} MB free. Free some space, or choose another folder with --workdir."
            )

    def _check_configuration(self):
        if not self.config.is_file():
            own = (self.checkpoints.name, self.lock.name, ".writing-")  # left by a run killed at its start
            other_files = sorted(name for name in self._names() if not name.startswith(own))
            if other_files:
                raise ValueError(
                    f"The run directory {self.address} contains other files ({', '.join(other_files[:5])}); choose an "
                    "empty or new folder with --workdir."
                )
            return
        if not list_checkpoints(self.checkpoints) and not self.finished:
            return  # nothing has been learnt that another configuration could spoil
        stored = _DEFAULTS | json.loads(self.config.read_text(encoding="utf-8"))  # older runs lack newer fields
        wanted = _as_data(self.recipe)
        if stored["data"] != wanted["data"] and self._is_moved():
            stored["data"] = wanted["data"]
        changed = differences(stored, wanted)
        if changed:
            raise ValueError(
                f"The run directory {self.address} belongs to another configuration ({changed}). Nothing was changed. "
                "Choose another folder with --workdir."
            )

    def _is_moved(self) -> bool:
        """Whether the images are those of the run in another folder; what has changed in it is told later."""
        folder = image_folder(self.recipe.data, self.recipe.train_split, self.recipe.test_split, log=lambda line: None)
        return bool(folder and folder.holds(read_files(self.files)))

    def _names(self) -> list[str]:
        """Names of the files and folders in the folder."""
        return [item.name for item in self.path.iterdir()] if self.path.is_dir() else []


def _as_data(recipe) -> dict[str, Any]:
    """A recipe as in `config.json`: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


_DEFAULTS = _as_data(Recipe("any", "any"))


def read_recipe(path) -> Recipe:
    """The recipe of a run directory.

    Raises:
        ValueError: the folder is not a run directory, or its `config.json` does not contain a valid recipe.
    """
    config = Path(path) / "config.json"
    if not config.is_file():
        raise ValueError(f"{path} is not a run directory: it has no config.json.")
    try:
        return recipe_from(config.read_bytes())
    except ValueError as error:
        raise ValueError(f"{config} does not contain a recipe of this version of keras-mixer: {error}") from error


def read_results(path) -> dict[str, Any]:
    """The content of `results.json` of a run directory.

    Raises:
        ValueError: the run is not finished.
    """
    results = Path(path) / "results.json"
    if not results.is_file():
        raise ValueError(f"{path} is not a finished run: it has no results.json.")
    return json.loads(results.read_text(encoding="utf-8"))


def recipe_from(text: bytes) -> Recipe:
    """The recipe in the text of a `config.json`.

    Raises:
        ValueError: the text is not a JSON object, or a field is unknown, missing or invalid.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply.") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {content!r:.200}.")
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    invalid = {"unknown": sorted(content.keys() - fields), "missing": [name for name in needed if name not in content]}
    if any(invalid.values()):
        raise ValueError("; ".join(f"{what} fields: {names}" for what, names in invalid.items() if names))
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return Recipe(**values)


def read_metrics(path) -> dict[str, list[float]]:
    """The columns of a `metrics.csv` by name, one value per epoch; empty if there is no file.

    An incomplete last line, after a full disk or a power failure, is skipped with a warning.

    Raises:
        ValueError: any other line is damaged.
    """
    rows = _rows(Path(path))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def _rows(path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        warnings.warn(f"The last line of {path} is cut off; its epoch is skipped.", stacklevel=2)
        lines.pop()
    reader = csv.DictReader(lines)
    rows = []
    for row in reader:
        try:
            for value in row.values():
                float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Line {reader.line_num} of {path} is damaged: {lines[reader.line_num - 1].strip()!r:.200}. Restore "
                "the file, or delete that line."
            ) from error
        rows.append(row)
    return rows
