"""Contestant: Mixer-S/32 with another image size, batch size or depth; forward pass in float32."""

import dataclasses

import keras
import numpy as np
from protocol import serve

from keras_mixer.models import Mixer
from keras_mixer.variants import VARIANTS


def _prepare(case):
    if case["kind"] != "growth":
        raise ValueError(f"unsupported case {case['kind']!r}")
    sizes = dataclasses.asdict(VARIANTS["S/32"]) | {"num_blocks": case["blocks"]}
    shape = (case["image_size"], case["image_size"], 3)
    model = Mixer(**sizes, input_shape=shape)
    model.compile(jit_compile=False if keras.backend.backend() == "tensorflow" else "auto")
    images = np.random.default_rng(0).integers(0, 256, (case["batch_size"], *shape)).astype(np.float32)
    return lambda: model.predict_on_batch(images)


serve(_prepare)
