import types

import pytest

from keras_mixer.training import sweep as module
from keras_mixer.training.callbacks import TrainingDiverged
from keras_mixer.training.sweep import sweep


def test_a_sweep_compares_on_held_out_images_and_trains_on_all_with_the_best(monkeypatch):
    runs, said = [], []

    def fit(recipe, **options):
        runs.append((recipe, options))
        if options["learning_rate"] > 1:
            raise TrainingDiverged("too high")
        return types.SimpleNamespace(metrics={"accuracy": 1 - options["learning_rate"]})

    monkeypatch.setattr(module, "fit", fit)
    result = sweep("digits", [9, 0.3, 0.1, 0.3], workdir="runs", holdout=0.2, seed=1, log=said.append)
    assert (result.accuracies, result.best) == ({0.1: 0.9, 0.3: 0.7, 9.0: None}, 0.1)
    assert "too high" in said
    rates = {f"runs/lr_{rate:g}": {"learning_rate": rate, "holdout": 0.2} for rate in (0.1, 0.3, 9.0)}
    rates["runs/final_0.1"] = {"learning_rate": 0.1, "holdout": 0.0, "keep": "last", "patience": None}
    common = {"seed": 1, "log": said.append}
    assert runs == [("digits", {"workdir": workdir} | chosen | common) for workdir, chosen in rates.items()]
    assert sweep("digits", [0.1], workdir="runs", final=False).final is None
    with pytest.raises(ValueError, match=r"diverged at every learning rate \(2.0, 3.0\); try lower ones"):
        sweep("digits", [2, 3], workdir="runs")
    for rates in ([], [0.1, 0.0], ["a", 0.1]):
        with pytest.raises(ValueError, match="learning_rates must be"):
            sweep("digits", rates, workdir="runs")
