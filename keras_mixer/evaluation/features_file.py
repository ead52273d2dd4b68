"""Features of a whole data set, in memory or in one `.npz` file."""

from pathlib import Path

import numpy as np

from keras_mixer.evaluation.outputs import class_numbers, outputs_of
from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing


def features_of(extractor, batches, description, progress=False, mean=False, pixels=None):
    """`(N, ...) float32, (N,) int64`: the only feature of an extractor for all images, and their labels.

    `mean` averages grids over their tokens; the other arguments are those of `outputs_of`.
    """
    rows = []
    for outputs, labels in outputs_of(extractor, batches, description, progress, pixels):
        (feature,) = (np.asarray(output, np.float32) for output in outputs.values())
        if mean:
            feature = feature.reshape(len(feature), -1, feature.shape[-1]).mean(1)  # a vector is its own mean
        rows.append((feature, class_numbers(labels)))
    if not rows:
        raise ValueError(f"There are no images to compute {description} from.")
    return map(np.concatenate, zip(*rows, strict=True))


def write_features(model, batches, path, *, layer="pre_logits", class_names=(), progress=False):
    """Writes an `.npz` file with `features` `(N, ...)` float32, `labels` `(N,)` int64 and `class_names`.

    All features are kept in memory until the file is written, atomically. ValueError if it exists or does not end in
    .npz, or if the layer, named as in `keras_mixer.feature_extractor`, is unknown.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Expected a path ending in .npz, got {path}.")
    refuse_existing(path)
    features, labels = features_of(feature_extractor(model, [layer]), batches, "features", progress)
    with atomic_write(path) as temporary:
        np.savez(temporary, features=features, labels=labels, class_names=np.array(class_names, "U"))
