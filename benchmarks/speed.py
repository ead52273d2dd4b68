"""The cases that are measured: forward passes and training steps, and the product of matrices as the speed limit."""

import dataclasses
from typing import Literal

import keras
import numpy as np

import keras_mixer

# What `fit` compiles has no public name.
from keras_mixer.training.optimizers import AdamW

LIMIT_SIDE = 4096  # of the square matrices whose product sets the speed limit
CLASSES = 1000
CALLS = (("forward", 1), ("forward", 8), ("forward", 32), ("train", 16))  # kinds and batch sizes of the targets


@dataclasses.dataclass(frozen=True)
class Case:
    """One case: a forward pass to probabilities, or a training step of AdamW with gradient clipping."""

    kind: Literal["forward", "train"]
    variant: str
    batch_size: int
    precision: Literal["float32", "bfloat16"] = "float32"
    image_size: int = 224
    num_blocks: int | None = None  # that of the variant

    @property
    def name(self):
        """Row name in tables: `B/16 train bfloat16 x 16`."""
        return f"{self.variant} {self.kind} {self.precision} x {self.batch_size}"

    @property
    def shape(self):
        """Of one image."""
        return (self.image_size, self.image_size, 3)

    def sizes(self):
        """The sizes of the model."""
        changes = {"num_blocks": self.num_blocks} if self.num_blocks else {}
        return dataclasses.replace(keras_mixer.VARIANTS[self.variant], **changes)

    def operations(self):
        """Floating-point operations per call: two for a multiply-accumulate; a gradient takes two forward passes."""
        return 2.0 * self.sizes().macs(self.shape, CLASSES) * self.batch_size * (3 if self.kind == "train" else 1)


def model_of(case, rematerialize=False):
    """The model of a case: probabilities for a forward pass, logits for training."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if case.precision == "bfloat16" else "float32")
    try:
        activation = None if case.kind == "train" else "softmax"
        options = {"input_shape": case.shape, "classes": CLASSES, "classifier_activation": activation}
        model = keras_mixer.Mixer(**dataclasses.asdict(case.sizes()), **options)
    finally:
        keras.config.set_dtype_policy(policy)

    def twice(layer):
        changes = {"rematerialize": True} if isinstance(layer, keras_mixer.MixerBlock) else {}
        return type(layer).from_config(layer.get_config() | changes)

    return keras.models.clone_model(model, clone_function=twice) if rematerialize else model


def compiled_model(case, rematerialize=False, xla="auto"):
    """The compiled model of a case; XLA "auto" is Keras's choice, which the package uses too: not on a CPU."""
    model = model_of(case, rematerialize)
    if case.kind == "forward":
        model.compile(jit_compile=xla)
        return model
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0), loss, jit_compile=xla)
    model.optimizer.build(model.trainable_variables)
    return model


def images_of(case):
    """`(B, H, W, 3) float32`: random pixels."""
    return np.random.default_rng(0).integers(0, 256, (case.batch_size, *case.shape)).astype(np.float32)


def prepare(case, rematerialize=False, xla="auto"):
    """A function without arguments that runs one call of a case and waits for its result; see `compiled_model`."""
    model, images = compiled_model(case, rematerialize, xla), images_of(case)
    if case.kind == "forward":
        return lambda: model.predict_on_batch(images)
    labels = np.eye(CLASSES, dtype=np.float32)[np.random.default_rng(0).integers(0, CLASSES, case.batch_size)]
    return lambda: model.train_on_batch(images, labels)


def prepare_limit(precision, side=LIMIT_SIDE):
    """A function without arguments that computes one product of square matrices; see `limit_operations`."""
    x = keras.random.normal((side, side), dtype=precision, seed=0)
    return lambda: keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.matmul(x, x)[0, 0], "float32"))


def limit_operations(side=LIMIT_SIDE):
    """Floating-point operations per call of `prepare_limit`."""
    return 2.0 * side**3


def session_of(path):
    """A function `(B, H, W, 3) -> (B, classes)` that runs the only version of an export as TensorFlow Serving does."""
    import tensorflow as tf

    (version,) = path.iterdir()
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
    signature = loaded.signature_def["serving_default"]
    output, image = signature.outputs["probabilities"].name, signature.inputs["image"].name
    return session.make_callable(output, feed_list=[image])
