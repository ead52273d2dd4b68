"""What tests that train share: a tiny model, a press of Ctrl-C, and the comparison of two results."""

import contextlib
import os
import signal

import numpy as np
import pytest

import keras_mixer
from keras_mixer.training.callbacks import RunCallbacks, RunStopped

SMALL = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32, "xla_on_cpu": False}
SMALL |= {"randaugment_num_ops": 0}  # a sixth of the time of such a run is its tracing


def quiet(*lines):
    pass


def fit(workdir, *callbacks, said=None, **options):
    """Trains a tiny model on digits, or on what the options say; appends the lines for the user to `said`."""
    log = quiet if said is None else said.append
    return keras_mixer.fit("digits", workdir=workdir, callbacks=callbacks, log=log, **(SMALL | options))


@contextlib.contextmanager
def stopped_at(step):
    """Ctrl-C is pressed during this step of the run in the block, from the second on, and stops it."""

    def press(self, batch, logs=None, original=RunCallbacks.on_train_batch_end):
        if self.step == step - 1:  # the step is about to be counted
            os.kill(os.getpid(), signal.SIGINT)
        original(self, batch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCallbacks, "on_train_batch_end", press)
        with pytest.raises(RunStopped, match=f"stopped at step {step}"):
            yield


def assert_same_weights(one, other):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
