"""Test accuracy along a training, for any network: equal data, augmentation and steps for all."""

import dataclasses
import tempfile

import keras
import numpy as np

from keras_mixer.inspect.figures import COLOURS
from keras_mixer.training.fit import fit_model


def train_curve(model, recipe, source, *, steps, points, seed, transform=None):
    """Trains a model of logits and measures it at equal intervals.

    Args:
        model: any Keras model from pixels in [0, 255] to logits, newly built.
        recipe: a `Recipe` for the augmentation (without CutMix), batch size, peak learning rate, warm-up, weight decay,
            clipping and label smoothing; the rest is fixed: AdamW, cosine schedule, softmax loss, float32, one device.
        source: the data.
        steps: optimizer steps, a multiple of `points`.
        points: number of measurements.
        seed: of order and augmentation; the caller initializes the weights.
        transform: applied to each batch of images in front of the model, in training and test; made of `keras.ops`.

    Returns:
        Test accuracy after `steps / points`, 2 `steps / points`, ... steps.

    Raises:
        ValueError: `steps` is not a multiple of `points`.
    """
    if steps % points:
        raise ValueError(f"steps must be a multiple of points={points}, got {steps}.")
    case = dataclasses.replace(
        recipe,
        seed=seed,
        steps=steps,
        steps_per_epoch=steps // points,
        loss="softmax",
        optimizer="adamw",
        schedule="cosine",
        warmup_steps=min(recipe.warmup_steps, steps // 2),
        cutmix_alpha=0.0,
        class_weights=None,
        ema_momentum=None,
        data_shards=1,
        precision="float32",
        accumulation_steps=1,
        steps_per_execution=1,
        devices="1",  # BatchNormalization would have other statistics on more
    )
    if transform is not None:
        image = keras.Input(model.input_shape[1:])
        model = keras.Model(image, model(transform(image)), name=model.name)
    with tempfile.TemporaryDirectory() as folder:
        result = fit_model(case, workdir=folder, source=source, model=model, log=lambda line: None)
    return result.history["val_accuracy"]


def steps_of(steps, points):
    """The steps at which `train_curve` measures the accuracy."""
    return [steps // points * (i + 1) for i in range(points)]


def draw_curves(ax, x, curves):
    """Draws named curves of multiple seeds: the mean as a line, minimum to maximum as a band.

    Args:
        ax: axes of matplotlib.
        x: `(n,)` x coordinates.
        curves: {name: `(seeds, n)` values}.
    """
    for colour, style, (name, values) in zip(COLOURS, ("-", "--", ":", "-.", "-", "--"), curves.items(), strict=False):
        values = np.asarray(values)
        ax.plot(x, values.mean(0), style, color=colour, label=name, linewidth=2)
        if len(values) > 1:
            ax.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    ax.legend(frameon=False)
