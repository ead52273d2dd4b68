"""The model of a run: where it starts, its copy that is trained on the devices, and the classifier that results."""

import dataclasses
import json

import keras
import numpy as np

from keras_mixer.anatomy import anatomy, rebuild
from keras_mixer.data.sources import data_name
from keras_mixer.data.splits import Source
from keras_mixer.mixer_model import MixerModel
from keras_mixer.models import Mixer
from keras_mixer.training.devices import Devices
from keras_mixer.training.distillation import Teacher
from keras_mixer.training.optimizers import build_loss, build_optimizer
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.training_model import TrainingModel
from keras_mixer.weights.loading import load_weights, open_weights


@dataclasses.dataclass(frozen=True)
class Start:
    """What a resumed run needs to know about its start; its weights come from a checkpoint.

    Attributes:
        tokens_mlp_dim: of the model; weights for a smaller image widen it.
        exact_gelu: whether the weights need the erf form of GELU.
        pixel_range: values of a black and a white pixel at the stem.
        class_names: of the data, in label order.
        accuracy: test accuracy before training; None if the head starts at zero.
        teacher_sha256: of the teacher's file; None without a teacher.
    """

    tokens_mlp_dim: int
    exact_gelu: bool
    pixel_range: tuple[float, float]
    class_names: tuple[str, ...]
    accuracy: float | None
    teacher_sha256: str | None = None

    @classmethod
    def of(cls, model, accuracy, teacher_sha256) -> "Start":
        """The start of a model."""
        block, names = anatomy(model).blocks[0], model.class_names
        return cls(block.tokens_mlp_dim, block.exact_gelu, model.pixel_range, names, accuracy, teacher_sha256)

    @classmethod
    def read(cls, path) -> "Start | None":
        """What `as_json` wrote; None if there is no file, as in runs of version 0.1.0.

        Raises:
            ValueError: the file is damaged.
        """
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tuples = {name: tuple(content[name]) for name in ("pixel_range", "class_names")}
            return cls(**content | tuples)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it to start from the weights again.") from error

    def as_json(self):
        """Plain data for `start.json`."""
        return dataclasses.asdict(self)

    def model(self, recipe: Recipe, source: Source) -> MixerModel:
        """The model that the run started from, with random weights.

        Raises:
            ValueError: the data have different classes now.
        """
        if source.class_names != self.class_names:
            raise ValueError(
                f"The classes of {source.name!r} have changed since this run started: {len(self.class_names)} then "
                f"({', '.join(self.class_names[:5])} ...), {len(source.class_names)} now "
                f"({', '.join(source.class_names[:5])} ...). Restore them, or choose another --workdir."
            )
        sizes = dataclasses.replace(recipe.architecture(), tokens_mlp_dim=self.tokens_mlp_dim)
        return _new_model(recipe, source, sizes, self.exact_gelu, self.pixel_range)


def start_model(recipe: Recipe, source: Source, log) -> MixerModel:
    """The recipe's model of logits with its initial weights."""
    variant, method = recipe.architecture(), recipe.resolution_method
    file = open_weights(recipe.weights, variant) if recipe.weights else None
    if file and method == "block_diagonal":
        variant = file.widened(variant, variant.grid(recipe.input_shape()))
    model = _new_model(recipe, source, variant, *(file.form() if file else ()))
    if file:
        load_weights(model, file, method=method, log=log)
    head = model.get_layer("head")
    if not head.kernel.numpy().any():
        head.bias.assign(np.full(head.bias.shape, recipe.head_bias))
    return model


def _new_model(recipe, source, sizes, exact_gelu=False, pixel_range=(-1.0, 1.0)):
    model = Mixer(
        **dataclasses.asdict(sizes),
        input_shape=recipe.input_shape(),
        classes=len(source.class_names),
        classifier_activation=None,
        dropout_rate=recipe.dropout_rate,
        drop_path_rate=recipe.drop_path_rate,
        name=f"mixer_{recipe.name}",
        exact_gelu=exact_gelu,
        pixel_range=pixel_range,
    )
    if keras.config.dtype_policy().name != "float32":  # the recipe decides about precision
        model = rebuild(model, precision="float32")
    model.class_names = source.class_names
    model.evaluation_crop, model.trained_on = recipe.evaluation_crop, data_name(recipe.data)
    return model


def build_trainee(start, recipe: Recipe, total_steps, devices: Devices):
    """A copy of `start` with the recipe's optimizer and precision. Call it in the scope of the devices.

    Returns:
        A compiled `keras.Model` from pixels to logits; its weights are in the order of those of `start`.

    Raises:
        ValueError: `start` is not a Mixer, and the recipe or the devices need one; or the teacher does not fit.
    """
    keras.utils.set_random_seed(recipe.seed)
    if isinstance(start, MixerModel):
        twice = recipe.rematerialize or ("tokens" if recipe.rematerialize_tokens else False)
        options = {"rematerialize": twice, "flattened": devices.platform != "tpu"}
        model = rebuild(start, precision=recipe.precision, **options)
    else:
        model = _clone(start, recipe, devices)
    model = TrainingModel(model.inputs, model.outputs[0], name=model.name)
    model.accumulation_steps, model.sam_rho = recipe.accumulation_steps, recipe.sam_rho
    if recipe.teacher is not None:
        model.teacher, model.teacher_temperature = Teacher(recipe.teacher), recipe.teacher_temperature
        model.teacher.check_classes(model.output_shape[-1], getattr(start, "class_names", None))
    model.set_weights(start.get_weights())
    devices.per_replica_seeds(model)
    optimizer = build_optimizer(recipe, total_steps)
    optimizer.build(model.trainable_variables)
    compile_trainee(model, optimizer, recipe, devices)
    return model


def _clone(model, recipe, devices):
    if recipe.precision != "float32":
        raise ValueError(f"precision={recipe.precision!r} works only with a Mixer, got {model.name!r}. Use 'float32'.")
    if devices.strategy is not None:  # each replica would have its own BatchNormalization statistics
        raise ValueError(f"{devices.description} works only with a Mixer, got {model.name!r}. Use one device.")
    return keras.models.clone_model(model)


def compile_trainee(model, optimizer, recipe: Recipe, devices: Devices, steps_per_execution=1):
    """Compiles the model, or recompiles it for another `steps_per_execution`; the optimizer keeps its state."""
    teacher = model.teacher
    model.compile(
        optimizer=optimizer,
        loss=build_loss(recipe),
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=devices.jit_compile if teacher is None or teacher.compiles else False,
        steps_per_execution=steps_per_execution,
    )


def classifier_of(model, activation):
    """Pixels to probabilities: a model of logits and an activation after it. The layers of `model` are shared."""
    logits = model.outputs[0]
    probabilities = keras.layers.Activation(activation, dtype=logits.dtype, name="probabilities")(logits)
    if not isinstance(model, MixerModel):
        return keras.Model(model.inputs[0], probabilities, name=model.name)
    return MixerModel(model.inputs[0], probabilities, name=model.name)
