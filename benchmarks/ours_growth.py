"""Contestant: Mixer-S/32 with another image size, batch size or depth; float32."""

import dataclasses

import keras
import numpy as np
from protocol import serve

from keras_mixer.models import Mixer
from keras_mixer.training.optimizers import AdamW
from keras_mixer.variants import VARIANTS


def _prepare(case):
    if case["kind"] != "growth":
        raise ValueError(f"unsupported case {case['kind']!r}")
    sizes = dataclasses.asdict(VARIANTS["S/32"]) | {"num_blocks": case["blocks"]}
    shape = (case["image_size"], case["image_size"], 3)
    training, count = case["training"], case["batch_size"]
    model = Mixer(**sizes, input_shape=shape, classifier_activation=None if training else "softmax")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0), loss, jit_compile=jit_compile)
    images = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.float32)
    if training:
        return lambda: model.train_on_batch(images, np.arange(count))
    return lambda: model.predict_on_batch(images)


serve(_prepare)
