"""The folder of one training run: what is in it, and the rules that protect it."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np
import pydantic_core

from keras_mixer.data.image_folder import TEST, TRAIN, ImageFile
from keras_mixer.data.sources import image_folder
from keras_mixer.data.splits import Source
from keras_mixer.files import UNFINISHED, as_address, atomic_write, write_json
from keras_mixer.storage import TRAINING_ONLY, Mirror
from keras_mixer.training.devices import Devices
from keras_mixer.training.recipe import Recipe, check
from keras_mixer.weights.readers import load_keras, read_arrays

FILES = "files.csv"
AS_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}  # names may be any bytes
CHECKPOINT = f"checkpoint-{'[0-9]' * 9}.npz"  # with the step
MOST_CHECKPOINTS = 2
PACKAGES = ("keras-mixer", "keras", "numpy", "tensorflow", "tensorflow-cpu", "jax", "keras-cv")


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes:
        model: the trained classifier, from pixels to probabilities; saved as `model.keras`.
        history: one value per epoch for each column of `metrics.csv`.
        metrics: the content of `results.json`.
    """

    model: keras.Model
    history: dict[str, list[float]]
    metrics: dict[str, Any]


class Run:
    """`config.json`, `files.csv`, `checkpoints/`, `metrics.csv`, `tensorboard/`, `model.keras`, `results.json`.

    In addition, `start.json` has the model and the accuracy that training started from, and `best.npz` the weights of
    the best epoch if the recipe keeps them. The first of the processes that train together writes. If `workdir` is an
    address such as gs://bucket/run, the folder is a copy, which `publish` sends back.
    """

    def __init__(self, workdir, recipe: Recipe, devices: Devices, log=print):
        address = as_address(workdir)
        self.mirror = Mirror(address) if address else None
        self.path = self.mirror.copy if self.mirror else Path(workdir).expanduser()
        self.name, self.recipe, self.devices = address or str(workdir), recipe, devices
        self.writes = devices.process == 0
        self.log = log if self.writes else lambda line: None
        self.config, self.start, self.files = (self.path / name for name in ("config.json", "start.json", FILES))
        self.checkpoints, self.best_file = self.path / "checkpoints", self.path / "best.npz"
        self.metrics_file, self.tensorboard = self.path / "metrics.csv", self.path / "tensorboard"
        self.model, self.results = self.path / "model.keras", self.path / "results.json"
        self.began = time.perf_counter()  # `restore` moves it back by the seconds before the checkpoint
        self.epochs: list[dict[str, Any]] = []  # rows of `metrics.csv`, without those that a resumed run will repeat

    @property
    def finished(self):
        """Whether the run has finished: its results are written last, after the model."""
        return self.model.is_file() and self.results.is_file()

    @property
    def resumes(self):
        """Whether there is a checkpoint, so that something has been learned."""
        return bool(list_checkpoints(self.checkpoints))

    @contextlib.contextmanager
    def opened(self):
        """Holds the run while the block runs: only one process that writes can, unless the run is finished.

        ValueError for another configuration or files that are not a run's; OSError if the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            with self.devices.all_or_none():
                if self.mirror:
                    stack.callback(self.mirror.close)
                    names = self.mirror.names()
                    self._check_names({name.split("/")[0] for name in names})
                    finished = {self.model.name, self.results.name} <= set(names)
                    skipped = TRAINING_ONLY if finished else "tensorboard/"
                    self.mirror.fetch(name for name in names if not name.startswith(skipped))
                self._check_configuration()
                if self.writes and not self.finished:
                    stack.enter_context(self._locked())
                    self._check_configuration()  # another process may have written it meanwhile
                    stack.callback(self.publish, last=True)
            yield

    def result(self) -> FitResult:
        """The result of a finished run."""
        self.log(f"Run {self.name} is already finished; delete it or choose another --workdir to train again.")
        self.epochs = read_metrics(self.metrics_file)
        return FitResult(load_keras(self.model, compile=True), self.history, read_results(self.path))

    def begin(self, source: Source, start, parameters):
        """Writes the files of a run that starts or resumes; OSError if the disk is too small for it."""
        if not self.writes:
            return
        # Of each weight: three checkpoints with two moments, and the average if there is one; two models; best epochs.
        copies = 11 + 3 * (self.recipe.ema_momentum is not None) + 2 * (self.recipe.keep == "best")
        needed, free = 4 * parameters * copies, shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(
                f"The run directory {self.name} needs about {needed / 1e6:,.0f} MB for model and checkpoints, but its "
                f"disk has {free / 1e6:,.0f} MB free. Free some space, or choose another --workdir."
            )
        write_json(self.config, self.recipe)
        if source.train.files:
            parts = (TRAIN, source.train.files), (TEST, source.test.files)
            images = [image._replace(part=part) for part, files in parts for image in files]
            _write_csv(self.files, [ImageFile._fields, *images])
        if not self.resumes:
            write_json(self.start, start)
        self.write_metrics()
        self.publish()

    @property
    def history(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv` by name."""
        return {name: [float(row[name]) for row in self.epochs] for name in (self.epochs[0] if self.epochs else ())}

    def write_metrics(self, *new):
        """Writes `metrics.csv`: the epochs so far, and new ones."""
        self.epochs += new
        if self.writes:
            columns = [list(row) for row in self.epochs[:1]]
            _write_csv(self.metrics_file, columns + [[row[name] for name in columns[0]] for row in self.epochs])

    def save_checkpoint(self, model, step):
        """Saves the state of a compiled model after `step` optimizer steps; keeps the newest two checkpoints."""
        arrays = [variable.numpy() for variable in model.variables + model.optimizer.variables]
        with atomic_write(self.checkpoints / f"checkpoint-{step:09d}.npz") as temporary:
            np.savez(temporary, *arrays, seconds=time.perf_counter() - self.began)
        self.publish()

    def restore(self, model):
        """Prepares a `TrainingModel`, and gives it the newest readable checkpoint if there is one."""
        checkpoints = list_checkpoints(self.checkpoints)
        for step, path in reversed(checkpoints.items()):
            try:
                arrays = read_arrays(path)
            except ValueError as error:
                self.log(f"Checkpoint {path} is damaged ({error.__cause__}); trying the previous one.")
                continue
            self.began -= float(arrays.pop("seconds"))
            model.prepare(freeze=step <= model.recipe.frozen_steps)
            for variable, value in zip(model.variables + model.optimizer.variables, arrays.values(), strict=True):
                variable.assign(value)
            self.epochs = [row for row in read_metrics(self.metrics_file) if float(row["step"]) <= step]
            self.log(f"Resuming after step {step} of {model.recipe.steps}.")
            return
        if checkpoints:
            raise ValueError(f"No checkpoint in {self.checkpoints} can be read. Restore one, or change --workdir.")
        model.prepare(freeze=model.recipe.frozen_steps > 0)

    def finish(self, recipe: Recipe, classifier, evaluation, **results) -> FitResult:
        """Writes `model.keras` and `results.json`, in this order."""
        versions = {"python": platform.python_version()}
        for package in PACKAGES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[package] = importlib.metadata.version(package)
        loss = evaluation.loss if math.isfinite(evaluation.loss) else None  # JSON has no NaN
        metrics = {"recipe": recipe.name, "part": recipe.part(), "seed": recipe.seed, "accuracy": evaluation.top1}
        metrics |= {"top5": evaluation.top5, "loss": loss, "test_images": evaluation.examples}
        metrics |= {"evaluation_crop": recipe.evaluation_crop, "image_size": list(recipe.input_shape()[:2])}
        metrics |= {"global_batch_size": recipe.global_batch_size, "warmup_steps": recipe.warmup_steps}
        metrics |= {"parameters": classifier.count_params(), **results, "versions": versions}
        metrics |= {"seconds": round(time.perf_counter() - self.began, 1), "backend": keras.backend.backend()}
        if self.writes:
            with atomic_write(self.model) as temporary:
                classifier.save(temporary)
            write_json(self.results, metrics)
        return FitResult(classifier, self.history, metrics)

    def publish(self, last=False):
        """Removes old checkpoints and updates the object store; what fails is told, and repeated or kept here."""
        for old in list(list_checkpoints(self.checkpoints).values())[:-MOST_CHECKPOINTS]:
            old.unlink()
        if self.mirror is None:
            return
        try:
            self.mirror.send()
        except Exception as error:  # of the file system's library
            if not last:
                self.log(f"Sending {self.name} failed ({error}); it is tried again later.")
                return
            self.mirror.keep_copy = True
            kept = f"The files are in {self.path}; run the same command again to resume from what was sent before."
            raise OSError(f"Sending {self.name} failed ({error}). {kept}") from error

    @contextlib.contextmanager
    def _locked(self):
        """Locks the folder, which is made if needed, while the block runs; removes what a killed process left."""
        lock, owner = filelock.FileLock(self.path / "run.lock", blocking=False), self.path / "run.lock.owner"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            who = owner.read_text() if owner.is_file() else "another process"
            remedy = "Wait for it to finish, stop it, or choose another --workdir."
            raise OSError(f"The run directory {self.name} is in use by {who}. {remedy}") from error
        except OSError as error:
            failure = f"The run directory {self.name} cannot be written ({error.strerror or error})."
            raise OSError(f"{failure} Choose another --workdir, or free disk space.") from error
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            for unfinished in (*self.path.glob(f"{UNFINISHED}*"), *self.checkpoints.glob(f"{UNFINISHED}*")):
                shutil.rmtree(unfinished, ignore_errors=True)
            yield
        finally:
            owner.unlink(missing_ok=True)
            if not self.config.is_file():  # nothing shall be left
                Path(lock.lock_file).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # there are files in them
                    self.checkpoints.rmdir()
                    self.path.rmdir()
            lock.release()

    def _check_names(self, names):
        own = ("checkpoints", "run.lock", UNFINISHED)  # left by a run that was killed at its start
        others = sorted(name for name in names if not name.startswith(own))
        if others and self.config.name not in names:
            found = f"contains other files ({', '.join(others[:5])})"
            raise ValueError(f"The run directory {self.name} {found}; choose an empty or new folder with --workdir.")

    def _check_configuration(self):
        self._check_names({item.name for item in self.path.iterdir()} if self.path.is_dir() else ())
        if not self.resumes and not self.finished:
            return  # nothing has been learned that another configuration could spoil
        stored, wanted = map(pydantic_core.to_jsonable_python, (read_recipe(self.path), self.recipe))
        stored["checkpoint_every_steps"] = wanted["checkpoint_every_steps"]  # changes nothing that is learned
        if stored["data"] != wanted["data"]:
            images = image_folder(self.recipe.data)
            if images and images.holds(read_files(self.files)):  # the same, in a folder with another name
                stored["data"] = wanted["data"]
        if different := [name for name in sorted(wanted) if stored[name] != wanted[name]]:
            changed = "; ".join(f"{name}: {stored[name]!r} there, {wanted[name]!r} now" for name in different)
            more = f" To continue from its weights, add --weights {self.name}." if self.finished else ""
            raise ValueError(
                f"The run directory {self.name} belongs to another configuration ({changed}). Nothing was changed. "
                f"Choose another folder with --workdir.{more}"
            )


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by step, ascending."""
    return {int(path.stem.removeprefix("checkpoint-")): path for path in sorted(folder.glob(CHECKPOINT))}


def read_recipe(path) -> Recipe:
    """The recipe of a run directory; ValueError if it is none, or its `config.json` has no valid recipe."""
    config = Path(path) / "config.json"
    if not config.is_file():
        raise ValueError(f"{path} is not a run directory: it has no config.json.")
    try:
        return Recipe(**check("content", pydantic_core.from_json(config.read_bytes()), dict[str, Any]))
    except ValueError as error:
        raise ValueError(f"{config} has no valid recipe: {error} Restore it, or choose another folder.") from error


def read_results(path) -> dict[str, Any]:
    """The content of `results.json` of a run directory; ValueError if the run is not finished."""
    results = Path(path) / "results.json"
    if not results.is_file():
        raise ValueError(f"{path} is not a finished run: it has no results.json.")
    return read_json(results)


@contextlib.contextmanager
def _naming_damage(path):
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). Restore it, or choose another --workdir.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of a run; ValueError if it is damaged."""
    with _naming_damage(path):
        return json.loads(path.read_bytes())


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, one per epoch; ValueError if one is damaged, a warning if the last is cut off."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        warnings.warn(f"The last line of {path} is cut off; its epoch is skipped.", stacklevel=2)
        lines.pop()
    rows = list(csv.DictReader(lines))
    with _naming_damage(path):
        for row in rows:
            list(map(float, row.values()))
    return rows


def _write_csv(path, rows):
    with atomic_write(path) as temporary, temporary.open("w", **AS_TEXT) as file:
        csv.writer(file).writerows(rows)


def read_files(path: Path) -> list[ImageFile]:
    """The images in a `files.csv`, if it exists; ValueError if it is damaged."""
    if not path.is_file():
        return []
    with _naming_damage(path), path.open(**AS_TEXT) as file:
        _, *rows = csv.reader(file)
        return [ImageFile(name, class_name, part, *map(int, numbers)) for name, class_name, part, *numbers in rows]
