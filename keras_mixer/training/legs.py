"""Divides the steps of a run into calls of Keras's `fit`."""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Leg:
    """Epochs of equal length: one call of Keras's `fit`."""

    first_step: int
    first_epoch: int
    last_epoch: int
    steps_per_epoch: int
    steps_per_execution: int


def legs(step, steps_per_epoch, total_steps, steps_per_execution) -> Iterator[Leg]:
    """The rest of an interrupted epoch, the complete epochs after it, and a last one that may be shorter.

    With multiple steps per execution, an epoch ends at the last complete execution in it: Keras would overrun it.
    """
    together = min(steps_per_execution, steps_per_epoch)
    steps_per_epoch -= steps_per_epoch % together
    while step < total_steps:
        epoch, done = divmod(step, steps_per_epoch)
        complete = (total_steps - step) // steps_per_epoch
        if done or not complete:
            steps = min(steps_per_epoch - done, total_steps - step)
            yield Leg(step, epoch, epoch + 1, steps, 1 if steps % together else together)
            step += steps
        else:
            yield Leg(step, epoch, epoch + complete, steps_per_epoch, together)
            step += complete * steps_per_epoch
