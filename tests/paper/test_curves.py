import keras
import numpy as np
import pytest

from keras_mixer.data.sources import load_source
from keras_mixer.paper import curves
from keras_mixer.paper.curves import steps_of, train_curve
from keras_mixer.training import fit as loop
from keras_mixer.training.recipes import resolve

RECIPE = resolve("digits", image_size=8, randaugment_num_ops=0, warmup_steps=5, learning_rate=0.05, xla_on_cpu=False)


def linear():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    return keras.Model(image, keras.layers.Dense(10)(x))


@pytest.mark.backends
def test_a_network_learns_and_is_measured_at_equal_distances(monkeypatch):
    source = load_source("digits")
    results = []

    def fit_model(*arguments, **options):
        results.append(loop.fit_model(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(curves, "fit_model", fit_model)
    curve = train_curve(linear(), RECIPE, source, steps=30, points=3, seed=0)
    assert len(curve) == 3
    assert curve[-1] > 0.7
    assert results[0].history["step"] == [10, 20, 30]
    assert results[0].metrics["accuracy"] == pytest.approx(curve[-1], abs=1e-6)
    assert steps_of(30, 3) == [10, 20, 30]
    with pytest.raises(ValueError, match="multiple of points=4, got 30"):
        train_curve(linear(), RECIPE, source, steps=30, points=4, seed=0)


@pytest.mark.backends
def test_a_transform_holds_for_training_and_test_images():
    blind = train_curve(linear(), RECIPE, load_source("digits"), steps=20, points=1, seed=0, transform=lambda x: x * 0)
    assert blind[0] == pytest.approx(0.1, abs=0.01)
    assert np.isfinite(blind).all()
