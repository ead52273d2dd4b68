"""The model that a run trains: where it starts, and how it is built and compiled for the devices."""

import dataclasses
import json

import keras
import numpy as np

from keras_mixer.data.sources import Source
from keras_mixer.models import Mixer, MixerModel, blocks_of, rebuild
from keras_mixer.training.accumulation import AccumulatingModel
from keras_mixer.training.distribution import Devices
from keras_mixer.training.optimizers import build_loss, build_optimizer
from keras_mixer.training.recipe import Recipe
from keras_mixer.weights.loading import WeightFile, load_weights, open_weights


@dataclasses.dataclass(frozen=True)
class Start:
    """What a resumed run must know of its start, since its weights come from a checkpoint.

    Attributes:
        tokens_mlp_dim: of the model; weights for a smaller image widen it.
        exact_gelu: whether the weights want the erf form of GELU.
        pixel_range: values of a black and a white pixel that they want at the stem.
        class_names: of the data, in label order.
        accuracy: test accuracy before training; None where the head starts at zero.
    """

    tokens_mlp_dim: int
    exact_gelu: bool
    pixel_range: tuple[float, float]
    class_names: tuple[str, ...]
    accuracy: float | None

    @classmethod
    def of(cls, model, accuracy) -> "Start":
        """The start from a model."""
        block = blocks_of(model)[0]
        return cls(block.tokens_mlp_dim, block.exact_gelu, model.pixel_range, model.class_names, accuracy)

    @classmethod
    def read(cls, path) -> "Start | None":
        """What `as_json` wrote; None where there is no file, as in runs of version 0.1.0.

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
            raise ValueError(f"{path} is damaged ({error}); remove it, and the run starts from its weights.") from error

    def as_json(self):
        """Plain data for `start.json`."""
        return dataclasses.asdict(self)

    def model(self, recipe: Recipe, source: Source) -> MixerModel:
        """The model that the run started from, with random weights.

        Raises:
            ValueError: the data have other classes now.
        """
        if source.class_names != self.class_names:
            raise ValueError(
                f"The classes of {source.name!r} have changed since this run started: {len(self.class_names)} then "
                f"({', '.join(self.class_names[:5])} ...), {len(source.class_names)} now "
                f"({', '.join(source.class_names[:5])} ...). Restore them, or choose another --workdir."
            )
        sizes = dataclasses.replace(recipe.architecture(), tokens_mlp_dim=self.tokens_mlp_dim)
        model = _new_model(recipe, source, sizes)
        model.pixel_range = self.pixel_range
        for block in blocks_of(model) if self.exact_gelu else ():
            block.use_exact_gelu()
        return model


def start_model(recipe: Recipe, source: Source, log) -> MixerModel:
    """The recipe's model of logits with the weights that training starts from."""
    variant, method = recipe.architecture(), recipe.resolution_method
    weights: str | WeightFile | None = recipe.weights
    if recipe.weights and method == "block_diagonal" and not recipe.weights.endswith(".weights.h5"):
        weights = file = open_weights(recipe.weights, variant)
        variant = file.widened(variant, variant.grid(recipe.input_shape()))
    model = _new_model(recipe, source, variant)
    if weights:
        load_weights(model, weights, method=method, log=log)
    head = model.get_layer("head")
    if not head.kernel.numpy().any():
        head.bias.assign(np.full(head.bias.shape, recipe.head_bias))
    return model


def _new_model(recipe, source, sizes):
    model = Mixer(
        **dataclasses.asdict(sizes),
        input_shape=recipe.input_shape(),
        classes=len(source.class_names),
        classifier_activation=None,
        dropout_rate=recipe.dropout_rate,
        drop_path_rate=recipe.drop_path_rate,
        name=f"mixer_{recipe.name}",
    )
    model.class_names = source.class_names
    model.evaluation_crop = recipe.evaluation_crop
    return model


def build_trainee(start, recipe: Recipe, total_steps, devices: Devices):
    """A copy of `start` with the recipe's optimizer and number format; within the devices' scope.

    Returns:
        A compiled `keras.Model` from pixels to logits, its weights in the order of those of `start`.
    """
    keras.utils.set_random_seed(recipe.seed)
    model = rebuild(start, precision=recipe.precision)
    for block in blocks_of(model):
        block.rematerialize = recipe.rematerialize
        for mlp in (block.token_mixing, block.channel_mixing):
            mlp.flattened = devices.platform != "tpu"
    if recipe.accumulation_steps > 1:
        model = AccumulatingModel(model.inputs, model.outputs[0], name=model.name)
        model.pieces = recipe.accumulation_steps
    model.set_weights(start.get_weights())
    devices.per_replica_seeds(model)
    optimizer = build_optimizer(recipe, total_steps)
    optimizer.build(model.trainable_variables)
    compile_trainee(model, optimizer, recipe, devices)
    return model


def compile_trainee(model, optimizer, recipe: Recipe, devices: Devices, steps_per_execution=1):
    """Compiles, or compiles again for other steps per execution; the optimizer keeps its state."""
    model.compile(
        optimizer=optimizer,
        loss=build_loss(recipe),
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=devices.jit_compile,
        steps_per_execution=steps_per_execution,
    )
