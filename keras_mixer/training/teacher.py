"""Distillation by function matching: the student learns what a teacher answers for the same augmented images."""

import hashlib

import keras
from keras import ops

from keras_mixer.anatomy import Anatomy, activation_of
from keras_mixer.export.predictor import completed
from keras_mixer.mixer_model import MixerModel
from keras_mixer.storage import local_copy
from keras_mixer.weights.imagenet_classes import same_classes
from keras_mixer.weights.readers import load_keras, model_file

MEANINGS = ("linear", "softmax")  # last activations of a teacher
SMALLEST = 1e-37  # probability whose logarithm is finite in float32


class Teacher:
    """A frozen classifier in inference mode. Not a Keras layer: checkpoints and the saved student do not contain it.

    Created in the scope of the devices, but not of a distribution: each JAX process compiles a copy into its step.

    Args:
        path: a `.keras` file, or the folder of a finished run. The model takes `(B, h, w, 3)` pixels in [0, 255] (a
            Mixer may be saved without preprocessing) and ends with softmax, or with logits: no activation.
        temperature: that of the loss.
    """

    def __init__(self, path, temperature=1.0):
        try:
            with local_copy(path) as copy:
                model, content = load_keras(model_file(copy)), model_file(copy).read_bytes()
        except ValueError as error:
            raise ValueError(f"teacher={path!r} cannot be loaded: {error}") from error
        shapes = [tuple(tensor.shape) for end in ("inputs", "outputs") for tensor in getattr(model, end, None) or ()]
        self.activation = activation_of(model)
        if [len(shape) for shape in shapes] != [4, 2] or shapes[0][-1] != 3 or self.activation not in MEANINGS:
            raise ValueError(
                "Expected a teacher with one input (B, h, w, 3) and one output (B, classes), of softmax or without "
                f"activation, got {path!r} with {shapes} and the activation {self.activation!r}."
            )
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.class_names = getattr(model, "class_names", None)
        try:
            Anatomy(model)
        except ValueError:
            if isinstance(model, MixerModel):
                raise  # with layers that were quantized or inserted, perhaps for other pixels
            self.model = model
        else:
            self.model = completed(model)
        self.size, self.classes, self.loss = shapes[0][1:3], shapes[1][1], DistillationLoss(temperature)

    def check_classes(self, classes, class_names):
        """Raises ValueError if the classes are not those of the student."""
        if self.classes != classes or not same_classes(self.class_names, class_names):
            found = f"The teacher has {self.classes} classes, the student {classes}: {self.class_names!s:.100} and "
            raise ValueError(f"{found}{class_names!s:.100}. Use a teacher trained on the same data, in the same order.")

    def __call__(self, images):
        """`(B, h, w, 3) -> (B, classes) float32`: logits, up to a constant per image.

        Images of another size are resized bilinearly, without antialiasing.
        """
        if None not in self.size and images.shape[1:3] != self.size:
            images = ops.image.resize(images, self.size, "bilinear", antialias=False, data_format="channels_last")
        outputs = ops.cast(self.model(images, training=False), "float32")
        return outputs if self.activation == "linear" else ops.log(ops.maximum(outputs, SMALLEST))


class DistillationLoss(keras.losses.Loss):
    """`t^2 KL(teacher || student)` of logits `(B, classes)`, averaged over the batch."""

    def __init__(self, temperature):
        super().__init__(dtype="float32")
        self.temperature = temperature

    def call(self, y_true, y_pred):
        """`(B, classes), (B, classes) -> (B,)`: logits of the teacher and of the student."""
        teacher, student = (ops.log_softmax(logits / self.temperature) for logits in (y_true, y_pred))
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
