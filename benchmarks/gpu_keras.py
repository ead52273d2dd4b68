"""Contestant of `gpu.py`: Mixers of this package and ViTs in Keras, on JAX, in bfloat16, with images on the device."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import dataclasses

import jax
import jax.numpy as jnp
import keras
from keras_vit import VITS, build_vit
from protocol import serve

from keras_mixer import Mixer
from keras_mixer.variants import KNOWN_VARIANTS  # tiny/4, for the test

CLASSES = 1000


def _model(case):
    keras.config.set_dtype_policy("mixed_bfloat16")
    side = case["image_size"]
    if case["variant"] in VITS:
        return build_vit(case["variant"], side)
    sizes = dataclasses.asdict(KNOWN_VARIANTS[case["variant"]])
    return Mixer(**sizes, input_shape=(side, side, 3), classes=CLASSES, classifier_activation=None)


def _prepare(case):
    if case["kind"] == "limit":
        x = jax.random.normal(jax.random.key(0), (case["side"], case["side"]), jnp.bfloat16)
        product = jax.jit(lambda x: x @ x)
        return lambda: product(x).block_until_ready()
    model = _model(case)
    shape = (case["batch_size"], case["image_size"], case["image_size"], 3)
    images = jax.random.randint(jax.random.key(0), shape, 0, 256, jnp.uint8)
    trainable, fixed = (
        [variable.value for variable in group] for group in (model.trainable_variables, model.non_trainable_variables)
    )
    if case["kind"] == "forward":
        forward = jax.jit(lambda trainable, fixed, images: model.stateless_call(trainable, fixed, images)[0])
        return lambda: forward(trainable, fixed, images).block_until_ready()
    labels = jax.random.randint(jax.random.key(1), shape[:1], 0, CLASSES)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)

    def loss(trainable, fixed):
        logits, fixed = model.stateless_call(trainable, fixed, images, training=True)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)), fixed

    def step(trainable, fixed, state):
        (value, fixed), gradient = jax.value_and_grad(loss, has_aux=True)(trainable, fixed)
        trainable, state = optimizer.stateless_apply(state, gradient, trainable)
        return trainable, fixed, state, value

    step = jax.jit(step, donate_argnums=(0, 1, 2))
    held = [trainable, fixed, [variable.value for variable in optimizer.variables]]

    def call():
        *held[:], value = step(*held)
        value.block_until_ready()

    return call


def _device():
    device = jax.local_devices()[0]
    return {"device": device.device_kind, "bytes": (device.memory_stats() or {}).get("peak_bytes_in_use")}


serve(_prepare, _device)
