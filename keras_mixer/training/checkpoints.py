"""Checkpoints of a run: weights, optimizer and random state in one `.npz` a step, written whole or not at all."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.files import atomic_write

KEPT = 2
PATTERN = re.compile(r"checkpoint-(\d+)\.npz")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: of its file.
        step: optimizer steps that were made.
        arrays: its variables by name.
    """

    path: Path
    step: int
    arrays: dict[str, np.ndarray]

    def restore(self, model):
        """Loads it into a built, compiled model.

        Raises:
            ValueError: it belongs to another model.
        """
        state = _state(model)
        if state.keys() != self.arrays.keys() or any(state[name].shape != self.arrays[name].shape for name in state):
            raise ValueError(f"Checkpoint {self.path} belongs to another model; use another --workdir.")
        for name, variable in state.items():
            variable.assign(self.arrays[name])


def save_checkpoint(folder: Path, model, step) -> Path:
    """Writes the state of a compiled model after `step` optimizer steps; keeps the newest two.

    The file appears under its name only when complete, so a run killed while writing leaves the one before.
    """
    path = folder / f"checkpoint-{step:09d}.npz"
    arrays: dict[str, Any] = {name: variable.numpy() for name, variable in _state(model).items()}
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
    for old in sorted(list_checkpoints(folder).values())[:-KEPT]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints of a folder by step, ascending."""
    found = {int(match[1]): path for path in folder.glob("*.npz") if (match := PATTERN.fullmatch(path.name))}
    return dict(sorted(found.items()))


def read_newest(folder: Path, log=print) -> Checkpoint | None:
    """The newest readable checkpoint; None where there is none. A damaged one is reported and the one before taken."""
    for step, path in sorted(list_checkpoints(folder).items(), reverse=True):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return Checkpoint(path, step, {name: archive[name] for name in archive.files})
        except Exception as error:  # zipfile and NumPy raise all sorts, MemoryError for a damaged shape among them
            log(f"Checkpoint {path} is damaged ({error}); trying the one before.")
    return None


def _state(model):
    """Every variable that decides how training goes on. By number: Keras counts random states on within a process."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {f"{part}/{i}": variable for part, variables in parts.items() for i, variable in enumerate(variables)}
