"""Small data sets in the files of TensorFlow Datasets, under the names and features of the real ones."""

import warnings

import numpy as np
import tensorflow_datasets as tfds


def write_tfds(data_dir, name, splits, features=None):
    """Writes a data set that `tfds.builder(name, data_dir=...)` takes for the real one, prepared.

    Splits are {split: list of examples}; features that an example lacks are empty. No features mean the real ones.
    """
    builder = tfds.builder(name, data_dir=data_dir)
    features, config = features or builder.info.features, builder.builder_config
    complete = {
        key: [{name: one.get(name, _empty(feature)) for name, feature in features.items()} for one in part]
        for key, part in splits.items()
    }
    options = {"version": builder.version, "config": config and config.name, "disable_shuffling": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_own_tfds(data_dir, builder.name, features, complete, **options)


def write_own_tfds(data_dir, name, features, splits, version="1.0.0", **options):
    """Writes a data set of the caller's own; splits is {split: list of examples}."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        data_dir=str(data_dir),
        features=tfds.features.FeaturesDict(dict(features)),
        split_datasets={split: list(enumerate(examples)) for split, examples in splits.items()},
        **options,
    )


def _empty(feature):
    if isinstance(feature, tfds.features.Image):
        return np.zeros([side or 8 for side in feature.shape], np.uint8)
    if isinstance(feature, tfds.features.Text):
        return ""
    if isinstance(feature, tfds.features.Sequence):
        return {name: [] for name in feature.feature} if hasattr(feature.feature, "keys") else []
    return np.zeros(feature.shape, feature.np_dtype)
