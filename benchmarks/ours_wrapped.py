"""Contestant: training steps of `fit` without distribution (none), distributed on one device (one) or two (two).

A call is four steps. Run with KERAS_BACKEND=tensorflow or jax; the two devices are virtual and share the cores.
"""

import sys

import keras
import tensorflow as tf
from protocol import serve
from speed import Case, compiled_model, images_of, labels_of

from keras_mixer.training.devices import Devices, choose_devices

STEPS = 4
ON_JAX = keras.backend.backend() == "jax"


def _devices(word):
    if word == "two":
        return choose_devices("2")
    if word == "none":
        return Devices("one CPU", 1)
    if ON_JAX:
        return Devices("one", 1, distribution=keras.distribution.DataParallel(devices=["cpu:0"]))
    return Devices("one", 1, strategy=tf.distribute.MirroredStrategy(["/cpu:0"]))


def _prepare(case):
    if case["kind"] != "train":
        raise ValueError(f"unsupported case {case['kind']!r}")
    described = Case(**case)
    batches = tf.data.Dataset.from_tensors((images_of(described), labels_of(described))).repeat().prefetch(2)
    devices = _devices(sys.argv[1])
    with devices.scope():
        model = compiled_model(described)

    def fit():
        with devices.scope():
            model.fit(batches, steps_per_epoch=STEPS, verbose=0)

    if ON_JAX:
        return fit
    model.make_train_function()
    strategy = devices.strategy or tf.distribute.get_strategy()
    iterator = iter(strategy.experimental_distribute_dataset(batches))

    def steps():  # like fit, but without reopening the data
        for _ in range(STEPS):
            logs = model.train_function(iterator)
        float(logs["loss"])

    return steps


if not ON_JAX:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
serve(_prepare)
