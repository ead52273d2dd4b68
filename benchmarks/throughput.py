"""Exact parameters and multiply-accumulates, measured speed and memory of Mixers on this machine.

    python benchmarks/throughput.py S/32 S/16 B/32 B/16 --batch-sizes 1 8 --seconds 8 --output throughput.png

A model is a variant, with random weights, a finished run or a `.keras` file. Memory is the peak of the whole process.
"""

import dataclasses
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import tensorflow as tf
import tyro
from protocol import memory, reset_peak, time_calls

import keras_mixer


def model_at(name, image_size):
    """A model, and its exact multiply-accumulates for one image if it is a variant."""
    if name not in keras_mixer.VARIANTS:
        path = Path(name)
        return keras.saving.load_model(path / "model.keras" if path.is_dir() else path), None
    variant, shape = keras_mixer.VARIANTS[name], (image_size, image_size, 3)
    return keras_mixer.Mixer(**dataclasses.asdict(variant), input_shape=shape), variant.macs(shape)


def traced_macs(model):
    """Multiply-accumulates for one image, counted in the graph that TensorFlow traces."""
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output()
    options = options.with_accounted_types([".*MatMul.*", "Conv2D"]).build()
    image = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    return profiler.profile(graph, options=options).total_float_ops // 2


def main(
    models: tyro.conf.Positional[tuple[str, ...]],
    output: Path,
    batch_sizes: tuple[int, ...] = (1, 8, 32),
    image_size: int = 224,
    seconds: float = 5.0,
):
    """Measure the forward pass at each batch size; print a table and plot the speed.

    Args:
        models: variants such as B/16, finished runs or .keras files.
        output: the .png or .svg file.
        batch_sizes: images per call.
        image_size: side of the images in pixels, for variants.
        seconds: how long to measure each batch size.
    """
    figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
    print("| model | parameters | GMACs | formula | batch | images/s | peak memory |\n|---|---|---|---|---|---|---|")
    for name in models:
        model, exact = model_at(name, image_size)
        macs, speeds = traced_macs(model), []
        for size in batch_sizes:
            images = keras.random.uniform((size, *model.input_shape[1:]), 0, 255, seed=0)
            for _ in range(2):
                model.predict_on_batch(images)
            reset_peak()
            speeds.append(size / min(time_calls(partial(model.predict_on_batch, images), seconds)))
            cost = f"{model.count_params():,} | {macs / 1e9:.3f} | {'-' if exact is None else exact == macs}"
            print(f"| {name} | {cost} | {size} | {speeds[-1]:,.1f} | {memory('VmHWM') / 1e6:,.0f} MB |", flush=True)
        ax.plot(batch_sizes, speeds, "o-", label=name)
        keras.backend.clear_session()  # frees memory, so that the next model's peak does not include it
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="images per second")
    ax.set_xticks(batch_sizes, list(map(str, batch_sizes)))
    ax.minorticks_off()
    ax.legend()
    figure.savefig(output, dpi=144)


if __name__ == "__main__":
    tyro.cli(main)
