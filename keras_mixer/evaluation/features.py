"""Features of a whole data set, streamed into one `.npz` file in bounded memory."""

import zipfile
from pathlib import Path

import numpy as np

from keras_mixer.evaluation.outputs import outputs_of
from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing


def write_features(model, batches, examples, path, *, layer="pre_logits", class_names=(), progress=False):
    """Writes the features of every image of a data set.

    Args:
        model: a Mixer of this package.
        batches: `(images, labels)` batches, each image once.
        examples: number of images.
        path: the `.npz` file to write, with `features` `(N, ...)` float32, `labels` `(N,)` int64 and `class_names`;
            must not exist. It is written atomically.
        layer: a layer name of `keras_mixer.feature_extractor`.
        class_names: one per class.
        progress: show a progress bar on standard error.

    Returns:
        The `Path` written.

    Raises:
        ValueError: the layer is unknown (the message lists the valid ones), the number of images differs from
            `examples`, the path does not end in .npz, or the file exists.

    Source: ours.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Expected a path ending in .npz, got {path}.")
    refuse_existing(path)
    extractor = feature_extractor(model, [layer])
    shape = (examples, *extractor.output[layer].shape[1:])
    labels = []
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for outputs, labels_of_batch in outputs_of(extractor, batches, "features", progress):
                file.write(np.ascontiguousarray(outputs[layer], "<f4").tobytes())
                labels.append(np.asarray(labels_of_batch, np.int64))
        found = sum(map(len, labels))
        if found != examples:
            raise ValueError(f"Expected {examples} images, got {found} from the data set.")
        for name, array in {"labels": np.concatenate(labels), "class_names": np.array(class_names, "U")}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return path
