"""Write what a model computes inside for a data set: features MODEL DATA."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_mixer.commands.terminal import parse
from keras_mixer.data.integrity import check_source
from keras_mixer.data.pipeline import evaluation_batches
from keras_mixer.data.sources import load_source
from keras_mixer.evaluation.features import write_features
from keras_mixer.export.loading import load_mixer
from keras_mixer.files import refuse_existing
from keras_mixer.models import evaluation_crop_of


def run(arguments):
    """Write what a model computes inside for a data set: features MODEL DATA."""
    parse(features, "features", arguments)


def features(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    output: Path,
    layer: str = "pre_logits",
    part: Literal["train", "test"] = "test",
    data_dir: str | None = None,
    batch_size: int = 64,
):
    """Write what a model computes inside for every image of a data set.

    Args:
        model: a finished run directory or .keras file.
        data: digits, an image folder or a TensorFlow Datasets name.
        output: the .npz file to write (features, labels, class_names); must not exist.
        layer: stem, block_0, ..., block_0/token_mixing, block_0/channel_mixing, ..., normed, pre_logits or logits.
        part: which part of the data.
        data_dir: folder with prepared TensorFlow Datasets.
        batch_size: images in a step.
    """
    refuse_existing(output)
    loaded = load_mixer(model)
    crop = evaluation_crop_of(loaded)
    source, _ = check_source(load_source(data, data_dir), crop=crop)
    split = source.train if part == "train" else source.test
    batches = evaluation_batches(split, image_size=loaded.input_shape[1:3], batch_size=batch_size, crop=crop)
    names = source.class_names
    write_features(loaded, batches, split.size, output, layer=layer, class_names=names, progress=True)
    print(f"Written: {output} ({layer} of {split.size} images, {crop})")
