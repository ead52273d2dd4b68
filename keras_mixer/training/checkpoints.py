"""Checkpoints of a run: weights, optimizer and random state in one `.npz` file, written atomically."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.files import atomic_write

MAX_CHECKPOINTS = 2
PATTERN = re.compile(r"checkpoint-(\d+)\.npz")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: the file.
        step: number of completed optimizer steps.
        arrays: variables by name.
    """

    path: Path
    step: int
    arrays: dict[str, np.ndarray]

    def restore(self, model):
        """Loads the checkpoint into a built and compiled model.

        Raises:
            ValueError: it belongs to another model.
        """
        state = _state(model)
        if state.keys() != self.arrays.keys() or any(state[name].shape != self.arrays[name].shape for name in state):
            raise ValueError(f"Checkpoint {self.path} belongs to another model; use another --workdir.")
        for name, variable in state.items():
            variable.assign(self.arrays[name])


def save_checkpoint(folder: Path, model, step) -> Path:
    """Saves the state of a compiled model after `step` optimizer steps; keeps the newest two checkpoints.

    The file gets its name only when complete, so a run killed while writing still has the previous checkpoint.
    """
    path = folder / f"checkpoint-{step:09d}.npz"
    arrays: dict[str, Any] = {name: variable.numpy() for name, variable in _state(model).items()}
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
    for old in sorted(list_checkpoints(folder).values())[:-MAX_CHECKPOINTS]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by step, ascending."""
    found = {int(match[1]): path for path in folder.glob("*.npz") if (match := PATTERN.fullmatch(path.name))}
    return dict(sorted(found.items()))


def read_newest(folder: Path, log=print) -> Checkpoint | None:
    """The newest readable checkpoint, or None. Damaged ones are reported and skipped."""
    for step, path in sorted(list_checkpoints(folder).items(), reverse=True):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return Checkpoint(path, step, {name: archive[name] for name in archive.files})
        except Exception as error:  # zipfile and NumPy raise many types, even MemoryError for a damaged shape
            log(f"Checkpoint {path} is damaged ({error}); trying the previous one.")
    return None


def _state(model):
    """All variables that training depends on, by number: the names of Keras's random states change in a process."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {f"{part}/{i}": variable for part, variables in parts.items() for i, variable in enumerate(variables)}
