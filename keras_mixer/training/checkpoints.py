"""Checkpoints of a run: weights, optimizer and random state in one `.npz` a step, written whole or not at all."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.files import whole

KEPT = 2
PATTERN = re.compile(r"checkpoint-(\d+)\.npz")


def save_checkpoint(folder: Path, model, step) -> Path:
    """Writes the state of a compiled model after `step` optimizer steps; keeps the newest two.

    The file appears under its name only when complete, so a run killed while writing leaves the one before.
    """
    path = folder / f"checkpoint-{step:09d}.npz"
    arrays: dict[str, Any] = {name: variable.numpy() for name, variable in _state(model).items()}
    with whole(path) as temporary:
        np.savez(temporary, **arrays)
    for old in sorted(list_checkpoints(folder).values())[:-KEPT]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints of a folder by step, ascending."""
    found = {int(match[1]): path for path in folder.glob("*.npz") if (match := PATTERN.fullmatch(path.name))}
    return dict(sorted(found.items()))


def restore_newest(folder: Path, model, report=print) -> int:
    """Loads the newest readable checkpoint into a built, compiled model; returns its step, 0 where there is none.

    A damaged one is reported and the one before is taken.

    Raises:
        ValueError: a checkpoint belongs to another model.
    """
    for step, path in sorted(list_checkpoints(folder).items(), reverse=True):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as error:  # zipfile and NumPy raise all sorts, MemoryError for a damaged shape among them
            report(f"Checkpoint {path} is damaged ({error}); trying the one before.")
            continue
        state = _state(model)
        if state.keys() != arrays.keys() or any(state[name].shape != arrays[name].shape for name in state):
            raise ValueError(f"Checkpoint {path} belongs to another model; use another --workdir.")
        for name, variable in state.items():
            variable.assign(arrays[name])
        return step
    return 0


def _state(model):
    """Every variable that decides how training goes on. By number: Keras counts random states on within a process."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {f"{part}/{i}": variable for part, variables in parts.items() for i, variable in enumerate(variables)}
