"""Training networks of any kind side by side: equal data, equal steps, accuracy along the way.

`keras_mixer.fit` trains Mixers; experiments also need ResNets, changed inputs and changed layers. This trainer takes
the augmentation, batch size, learning rate, warm-up, decay and clipping of a recipe and nothing else.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_mixer.data.pipeline import evaluation_batches
from keras_mixer.inspect.figures import COLOURS
from keras_mixer.training.inputs import recipe_batches
from keras_mixer.training.optimizers import build_loss, build_optimizer


def train_curve(model, recipe, source, *, steps, points, seed, transform=None):
    """Trains a model of logits and measures it at equal distances.

    Args:
        model: any Keras model of logits, freshly built; images in [0, 255].
        recipe: a `Recipe` for data and optimisation (AdamW, warm-up, cosine; softmax loss).
        source: the data.
        steps: optimizer steps, a multiple of `points`.
        points: how often to measure.
        seed: of order and augmentation; initial weights are the caller's.
        transform: changes a batch of images, for training and test alike; None leaves them.

    Returns:
        Test accuracy after `steps / points`, 2 `steps / points`, ... steps.

    Raises:
        ValueError: `steps` is no multiple of `points`.
    """
    if steps % points:
        raise ValueError(f"steps must be a multiple of points={points}, not {steps}.")
    classes, image_size = len(source.class_names), recipe.input_shape()[:2]
    plain = dataclasses.replace(
        recipe,
        seed=seed,
        loss="softmax",
        optimizer="adamw",
        schedule="cosine",
        warmup_steps=min(recipe.warmup_steps, steps // 2),
        cutmix_alpha=0.0,
        class_weights=None,
        ema_momentum=None,
        data_shards=1,
    )
    train = recipe_batches(source, plain)
    crop = recipe.evaluation_crop
    test = evaluation_batches(source.test, image_size=image_size, batch_size=recipe.global_batch_size, crop=crop)
    test = test.map(lambda images, labels: (tf.cast(images, tf.float32), tf.one_hot(labels, classes)))
    if transform is not None:
        train, test = (part.map(lambda images, labels: (transform(images), labels)) for part in (train, test))
    model.compile(
        optimizer=build_optimizer(plain, steps),
        loss=build_loss(plain),
        metrics=["accuracy"],
        jit_compile="auto" if tf.config.list_physical_devices("GPU") else recipe.xla_on_cpu,
    )
    history = model.fit(
        train.prefetch(1),
        validation_data=test,
        steps_per_epoch=steps // points,
        epochs=points,
        shuffle=False,
        verbose=0,
    )
    return history.history["val_accuracy"]


def steps_of(steps, points):
    """The steps at which `train_curve` measures."""
    return [steps // points * (i + 1) for i in range(points)]


def draw_curves(ax, x, curves):
    """Draws named curves of several seeds: the mean as a line, smallest to largest as a band.

    Args:
        ax: axes of matplotlib.
        x: `(n,)` places.
        curves: {name: `(seeds, n)` values}.
    """
    for colour, style, (name, values) in zip(COLOURS, ("-", "--", ":", "-.", "-", "--"), curves.items(), strict=False):
        values = np.asarray(values)
        ax.plot(x, values.mean(0), style, color=colour, label=name, linewidth=2)
        if len(values) > 1:
            ax.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    ax.legend(frameon=False)
