import numpy as np
import pytest
from conftest import randomize

import keras_mixer
from keras_mixer.export import web


@pytest.fixture(scope="session")
def classifier():
    mixer = keras_mixer.Mixer(4, 2, 32, 16, 64, input_shape=(16, 24, 3), classes=10)
    model = randomize(mixer, np.random.default_rng(0))
    model.class_names, model.evaluation_crop = tuple(f"class {i}" for i in range(10)), "resmall-crop"
    return model


@pytest.fixture(scope="session")
def tflite_file(classifier, tmp_path_factory):
    return keras_mixer.export_tflite(classifier, tmp_path_factory.mktemp("files") / "digits.tflite")


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 16, 24, 3)).astype(np.float32)


@pytest.fixture
def litert(monkeypatch):
    """Stand-ins for LiteRT.js, of which nothing is downloaded then."""
    runtime = {f"wasm/{name}{suffix}": name.encode() for name in web.RUNTIMES for suffix in (".js", ".wasm")}
    core = {"dist/index.js": b'import { load } from "@litertjs/wasm-utils";', **runtime}
    packages = {"@litertjs/core": core, "@litertjs/wasm-utils": {"dist/index.js": b"utils"}}
    monkeypatch.setattr(web, "package_files", packages.__getitem__)
