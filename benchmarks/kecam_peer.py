"""Contestant: the Mixer of keras_cv_attention_models on tf-keras (Keras 2). Inputs are scaled."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before TensorFlow is imported

import numpy as np
import tensorflow as tf
import tf_keras
from keras_cv_attention_models import mlp_mixer
from protocol import serve

NAMES = {"S/32": "MLPMixerS32", "S/16": "MLPMixerS16", "B/32": "MLPMixerB32", "B/16": "MLPMixerB16"}
CLASSES = 1000


def _prepare(case):
    if case["kind"] not in ("forward", "train"):
        raise ValueError(f"unsupported case {case['kind']!r}")
    policy = "mixed_bfloat16" if case["precision"] == "bfloat16" else "float32"
    tf_keras.mixed_precision.set_global_policy(policy)
    shape = (case["image_size"], case["image_size"], 3)
    activation = None if case["kind"] == "train" else "softmax"
    build = getattr(mlp_mixer, NAMES[case["variant"]])
    model = build(input_shape=shape, num_classes=CLASSES, classifier_activation=activation, pretrained=None)
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (case["batch_size"], *shape)).astype(np.float32)
    if case["kind"] == "forward":
        return lambda: model.predict_on_batch(images)
    model.compile(
        optimizer=tf_keras.optimizers.AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0),
        loss=tf_keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    labels = tf.one_hot(generator.integers(0, CLASSES, case["batch_size"]), CLASSES).numpy()
    return lambda: model.train_on_batch(images, labels)


serve(_prepare)
