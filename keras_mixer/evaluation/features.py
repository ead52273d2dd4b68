"""Features of a whole data set, streamed into one `.npz` file in bounded memory."""

import sys
import zipfile
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from keras_mixer.evaluation.prediction import predict_batch
from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing


def write_features(model, batches, examples, path, *, layer="pre_logits", class_names=(), progress=False):
    """Writes what a model computes inside for every image of a data set.

    Args:
        model: a Mixer of this package.
        batches: `(images, labels)` batches, each image once.
        examples: number of images.
        path: the `.npz` file to write, with `features` `(N, ...)` float32, `labels` `(N,)` int64 and `class_names`; it
            must not exist.
        layer: a name of `keras_mixer.feature_extractor`.
        class_names: one for each label.
        progress: show a progress bar on standard error.

    Returns:
        The `Path` written. It appears whole or not at all.

    Raises:
        ValueError: an unknown layer (lists the valid ones), another number of images than announced, or a file that
            exists already (nothing is overwritten).

    Source: ours.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Features are written as .npz, unlike {path}.")
    refuse_existing(path)
    extractor = feature_extractor(model, [layer])
    shape = (examples, *extractor.output[layer].shape[1:])
    labels = []
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for images, of_batch in tqdm(batches, desc="features", unit="batch", disable=not progress, file=sys.stderr):
                features = predict_batch(extractor, images)[layer]
                file.write(np.ascontiguousarray(features, "<f4").tobytes())
                labels.append(np.asarray(of_batch, np.int64))
        found = sum(map(len, labels))
        if found != examples:
            raise ValueError(f"The data set has {found} images, not the {examples} that were announced.")
        for name, array in {"labels": np.concatenate(labels), "class_names": np.array(class_names, "U")}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return path
