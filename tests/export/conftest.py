import numpy as np
import pytest


@pytest.fixture
def classifier(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    model.class_names = tuple(f"class {i}" for i in range(10))
    model.evaluation_crop = "resmall-crop"
    return model


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 16, 24, 3)).astype(np.float32)
