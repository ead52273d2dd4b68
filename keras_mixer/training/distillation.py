"""Distillation by function matching: the student learns what a teacher answers for the same augmented images."""

import hashlib
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_mixer.anatomy import is_mixer
from keras_mixer.description import SAVED_MODEL_DESCRIPTION, Description, completed
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run_directory import read_recipe
from keras_mixer.weights.readers import load_keras

SAVED_MODEL = "saved_model.pb"
SIZE_OF_TRIAL = 32  # pixels, and images, where a SavedModel takes any number
SAME_HOLDOUT = 1e-6  # larger differences of `holdout` are meant
SMALLEST = 1e-37  # probability whose logarithm is finite in float32


class Teacher:
    """A frozen classifier in inference mode. Not a Keras layer: checkpoints and the saved student do not contain it.

    Create it in the scope of a `tf.distribute` strategy if there is one. JAX compiles its weights into the step.

    Args:
        path: a `.keras` file, the folder of a finished run, or, on TensorFlow, of a SavedModel. The model takes
            `(B, h, w, 3)` pixels in [0, 255] (a Mixer may be saved without preprocessing) and ends with softmax, or
            with logits: no activation. The last layer tells which; of a SavedModel, its outputs for random images.

    Attributes:
        compiles: whether XLA can compile the teacher. SavedModels of this package also return names, which it cannot.

    Raises:
        ValueError: there is no such model, or it is damaged, or not a classifier like this.
    """

    def __init__(self, path):
        files = files_of(path)
        self.compiles = files[0].name != SAVED_MODEL
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)  # each JAX process keeps its own copy
        try:
            model = load_keras(files[0]) if self.compiles else _SavedModel(files[0].parent)
        except ValueError as error:
            raise ValueError(f"teacher={path!r} cannot be loaded: {error}") from error
        finally:
            keras.distribution.set_distribution(before)
        shapes = [tuple(tensor.shape) for end in ("inputs", "outputs") for tensor in getattr(model, end, None) or ()]
        if [len(shape) for shape in shapes] != [4, 2] or shapes[0][-1] != 3:
            raise ValueError(
                f"teacher={path!r} is not an image classifier: expected a functional model of one input (B, h, w, 3) "
                f"and one output (B, classes), got {shapes}."
            )
        self.activation = _last_activation(model)
        if self.activation not in ("linear", "softmax"):
            raise ValueError(
                f"teacher={path!r} ends with the activation {self.activation!r}. Expected 'softmax', or logits."
            )
        self.model = completed(model) if self.compiles and is_mixer(model) else model
        self.size, self.classes = shapes[0][1:3], shapes[1][1]
        self.class_names = getattr(model, "class_names", None)

    def check_classes(self, classes, class_names):
        """Raises ValueError if the classes are not those of the student."""
        if self.classes != classes:
            raise ValueError(f"The teacher has {self.classes} classes, the student {classes}. Use another teacher.")
        own, names = self.class_names or (), class_names or ()
        if set(own) == set(names) and tuple(own) != tuple(names):
            raise ValueError(
                f"The teacher has the classes in the order {own[:5]}, the student in {names[:5]}. Use a "
                "teacher trained on the same data."
            )

    def __call__(self, images):
        """`(B, h, w, 3) -> (B, classes) float32`: logits, up to a constant per image.

        Images of another size are resized bilinearly, without antialiasing.
        """
        if None not in self.size and images.shape[1:3] != self.size:
            images = ops.image.resize(images, self.size, "bilinear", antialias=False, data_format="channels_last")
        outputs = ops.cast(self.model(images, training=False), "float32")
        return outputs if self.activation == "linear" else ops.log(ops.maximum(outputs, SMALLEST))


class _SavedModel:
    """The signature `serving_default` of a SavedModel, called like a Keras model.

    Attributes:
        inputs, outputs: specifications of its images, and of its outputs `(B, classes)`.
        activation: of the outputs: as an export of this package says, or judged by those for random images.
        class_names: those that an export of this package has.

    Raises:
        ValueError: the backend is not TensorFlow, or the SavedModel is damaged.
    """

    def __init__(self, folder):
        if keras.backend.backend() != "tensorflow":
            raise ValueError("a SavedModel needs KERAS_BACKEND=tensorflow. Use the .keras file it was made from.")
        import tensorflow as tf

        try:
            self._loaded = tf.saved_model.load(str(folder))  # holds the weights
            self._signature = self._loaded.signatures["serving_default"]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{folder} is not a SavedModel with the signature serving_default: {error}") from error
        inputs, outputs = self._signature.structured_input_signature[1], self._signature.structured_outputs
        outputs = {name: output for name, output in outputs.items() if output.dtype.is_floating}  # the others: names
        self._names = [*inputs, *outputs]
        self.inputs, self.outputs = list(inputs.values()), list(outputs.values())
        self.activation, self.class_names = None, None
        if (file := folder / SAVED_MODEL_DESCRIPTION).is_file():
            own = Description.from_json(file.read_bytes(), folder)
            self.activation, self.class_names = own.activation, own.class_names  # None: a model of features
        elif len(self._names) == 2 and self.inputs[0].shape.rank == 4:
            shape = [size or SIZE_OF_TRIAL for size in self.inputs[0].shape]
            images = tf.constant(np.random.default_rng(0).integers(0, 256, shape), tf.float32)
            strategy = tf.distribute.get_strategy()  # its weights exist in replicas only
            found = strategy.run(tf.function(self), args=(images,))
            self.activation = _activation_of(strategy.experimental_local_results(found)[0].numpy())

    def __call__(self, images, training=False):
        name, output = self._names
        return self._signature(**{name: ops.cast(images, self.inputs[0].dtype.name)})[output]


def files_of(path) -> list[Path]:
    """The files of a teacher, the one to load first: a `.keras` file, or those of a SavedModel.

    Raises:
        ValueError: there is none.
    """
    if Path(path, SAVED_MODEL).is_file():
        return [Path(path, SAVED_MODEL), *sorted(Path(path, "variables").glob("*"))]
    file = Path(path, "model.keras") if Path(path).is_dir() else Path(path)
    if not file.is_file() or file.suffix != ".keras":
        raise ValueError(f"teacher={path!r} is neither a .keras file, a finished run directory nor a SavedModel.")
    return [file]


def doubts(recipe: Recipe) -> list[str]:
    """What to tell the user if the teacher may have learned the student's test images: at most one sentence.

    Known only of a teacher that is the folder of a run on the same data.
    """
    if recipe.teacher is None:
        return []
    try:
        teacher = read_recipe(recipe.teacher)
    except ValueError:  # another folder, a file, or a run of another version
        return []
    other_split = teacher.data_splits() != recipe.data_splits()
    other_part = recipe.holdout > 0 and abs(teacher.holdout - recipe.holdout) > SAME_HOLDOUT
    if teacher.data != recipe.data or not (other_split or other_part):
        return []
    return [
        f"The teacher {recipe.teacher} was trained on another part of {recipe.data}, which may include test images of "
        "this run: what it memorized of them reaches the student, and the accuracy is too high."
    ]


def checksum(recipe: Recipe) -> str | None:
    """SHA-256 of the teacher's files; None without a teacher."""
    if recipe.teacher is None:
        return None
    digest = hashlib.sha256()
    for path in files_of(recipe.teacher):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _activation_of(outputs) -> str:
    if outputs.min() < 0 or outputs.max() > 1:
        return "linear"
    return "softmax" if np.allclose(outputs.sum(-1), 1, atol=1e-3) else "sigmoid"


def _last_activation(model) -> str | None:
    if isinstance(model, _SavedModel):
        return model.activation
    layer = model.layers[-1]
    if isinstance(layer, keras.Model):
        return _last_activation(layer)
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", "linear")
