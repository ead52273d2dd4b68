"""The folder of one training run and the rules that protect what is in it."""

import contextlib
import csv
import dataclasses
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from keras_mixer.fields import differences
from keras_mixer.files import atomic_write, remove_abandoned, write_json
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run_lock import locked

CHECKED_IMAGES = "checked_images.json"


class RunDirectory:
    """`config.json`, `checkpoints/`, `tensorboard/`, `metrics.csv`, `model.keras`, `results.json` of one run.

    Besides, `start.json` remembers what a resumed run need not work out again, and `checked_images.json` that the image
    files were checked. Nothing is written before `prepare`.

    Args:
        path: the folder; need not exist.
        recipe: what the run does.

    Raises:
        ValueError: the folder holds another configuration; names the fields that differ. Or it is an address such as
            gs://..., not a folder.

    Source: ours.
    """

    def __init__(self, path, recipe: Recipe):
        if "://" in str(path):  # pathlib would make a local folder of it
            raise ValueError(
                f"--workdir must be a folder, not the address {path}. Mount the bucket, and name a folder there."
            )
        self.path = Path(path)
        self.recipe = recipe
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.metrics = self.path / "metrics.csv"
        self.model = self.path / "model.keras"
        self.results = self.path / "results.json"
        self.start = self.path / "start.json"
        self.checked_images = self.path / CHECKED_IMAGES
        self.lock = self.path / "run.lock"
        self._check_configuration()

    @property
    def finished(self):
        """Whether the run came to its end."""
        return self.results.is_file() and self.model.is_file()

    @contextlib.contextmanager
    def prepared(self, needed_bytes, log=print):
        """Makes the folder ready for training, and keeps other processes out of it while the block runs.

        Args:
            needed_bytes: space that the run will need.
            log: called with each line of text for the user.

        Raises:
            OSError: it cannot be written, or the disk has too little space; raised before anything is trained.
            RunInUse: (an OSError) another process trains in it.
        """
        self._check_writable(needed_bytes)
        with locked(self.lock, log):
            self._check_configuration()  # another process may have been faster
            if not self.config.is_file():
                write_json(self.config, _as_data(self.recipe))
            remove_abandoned(self.path)
            yield

    def write_results(self, results):
        """Writes `results.json` whole or not at all."""
        write_json(self.results, results)

    def read_results(self):
        """The content of `results.json`."""
        return json.loads(self.results.read_text(encoding="utf-8"))

    def read_metrics(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv` by name, one value an epoch; empty where there is none."""
        return read_metrics(self.metrics)

    def append_metrics(self, row):
        """Adds one epoch to `metrics.csv`."""
        new = not self.metrics.is_file()
        with self.metrics.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def drop_metrics_after(self, step):
        """Takes out the rows of epochs that a resumed run is going to repeat, and a last line that is cut off."""
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
                f"The run directory {self.path} cannot be written ({error.strerror or error}). Choose another place "
                "with --workdir, or free the disk."
            ) from error
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise OSError(
                f"The run directory {self.path} needs about {needed_bytes / 1e6:,.0f} MB for model and checkpoints, "
                f"but its disk has {free / 1e6:,.0f} MB free. Free some, or choose another place with --workdir."
            )

    def _check_configuration(self):
        if not self.config.is_file():
            own = (self.checkpoints.name, self.lock.name, ".writing-")  # of a start that was killed
            found = self.path.iterdir() if self.path.is_dir() else ()
            strangers = sorted(item.name for item in found if not item.name.startswith(own))
            if strangers:
                raise ValueError(
                    f"The run directory {self.path} holds something else already ({', '.join(strangers[:5])}); choose "
                    "an empty or new folder with --workdir."
                )
            return
        stored = _DEFAULTS | json.loads(self.config.read_text(encoding="utf-8"))  # older runs lack newer fields
        changed = differences(stored, _as_data(self.recipe))
        if changed:
            raise ValueError(
                f"The run directory {self.path} belongs to another configuration ({changed}). Nothing was changed. "
                "Choose another folder with --workdir."
            )


def _as_data(recipe) -> dict[str, Any]:
    """A recipe as in its file: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


_DEFAULTS = _as_data(Recipe("any", "any"))


def read_recipe(path) -> Recipe:
    """The recipe that a run directory was made with.

    Raises:
        ValueError: the folder is no run directory, or its `config.json` holds no recipe.
    """
    config = Path(path) / "config.json"
    if not config.is_file():
        raise ValueError(f"{path} is no run directory: it has no config.json.")
    try:
        return recipe_from(config.read_bytes())
    except ValueError as error:
        raise ValueError(f"{config} holds no recipe of this version of the package: {error}") from error


def recipe_from(text: bytes) -> Recipe:
    """The recipe in the content of a `config.json`.

    Raises:
        ValueError: it is no JSON object, or a field is unknown, missing, or holds what it cannot.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply.") from error
    if not isinstance(content, dict):
        raise ValueError(f"a recipe is a JSON object, not {content!r:.200}.")
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    wrong = {"unknown": sorted(content.keys() - fields), "missing": [name for name in needed if name not in content]}
    if any(wrong.values()):
        raise ValueError("; ".join(f"{what} fields: {names}" for what, names in wrong.items() if names))
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return Recipe(**values)


def read_metrics(path) -> dict[str, list[float]]:
    """The columns of a `metrics.csv` by name, one value an epoch; empty where there is none.

    A last line that was cut off, by a full disk or a power failure, is left out with a warning.

    Raises:
        ValueError: another line is damaged.
    """
    rows = _rows(Path(path))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def _rows(path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        warnings.warn(f"The last line of {path} is cut off and left out; the curves lack its epoch.", stacklevel=2)
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
                "the file, or remove that line."
            ) from error
        rows.append(row)
    return rows
