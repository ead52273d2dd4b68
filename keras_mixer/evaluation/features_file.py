"""Features of a whole data set in one `.npz` file."""

from pathlib import Path

import numpy as np

from keras_mixer.evaluation.outputs import outputs_of
from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing


def write_features(model, batches, path, *, layer="pre_logits", class_names=(), progress=False):
    """Writes an `.npz` file with `features` `(N, ...)` float32, `labels` `(N,)` int64 and `class_names`.

    All features are kept in memory until the file is written, atomically. ValueError if it exists or does not end in
    .npz, or if the layer, named as in `keras_mixer.feature_extractor`, is unknown.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Expected a path ending in .npz, got {path}.")
    refuse_existing(path)
    extractor = feature_extractor(model, [layer])
    rows = [
        (np.asarray(outputs[layer], np.float32), np.asarray(labels, np.int64))
        for outputs, labels in outputs_of(extractor, batches, "features", progress)
    ]
    if not rows:
        raise ValueError("There are no images to compute features from.")
    features, labels = map(np.concatenate, zip(*rows, strict=True))
    with atomic_write(path) as temporary:
        np.savez(temporary, features=features, labels=labels, class_names=np.array(class_names, "U"))
