"""SavedModel with signatures a client can rely on: pixels in, or encoded images in; probabilities and names out."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from keras_mixer.data.preprocessing import evaluation_image
from keras_mixer.export.classifier import Classifier
from keras_mixer.files import whole

DESCRIPTION = "assets.extra/keras_mixer.json"  # TensorFlow Serving leaves assets.extra to the model's owner


def export_saved_model(model, path, *, version=None, class_names=None, evaluation_crop=None, top_k=5):
    """Writes a classifier as `path/VERSION/`, the layout of TensorFlow Serving.

    Signatures, all with a free batch size B and n classes:
        `serving_default`: `image` (B, H, W, channels) float32 in [0, 255];
        `image_bytes`: `image_bytes` (B,) string, encoded images of any size (JPEG, PNG, GIF, BMP, WebP), decoded and
        cropped inside. The name ends in _bytes, so REST clients send `{"b64": ...}`.
    Both return `probabilities` (B, n) float32 in class order, and best first `classes` (B, k) int32 and `labels` (B, k)
    string.

    Args:
        model: a classifier of this package, on the TensorFlow backend.
        path: folder of all versions of the model.
        version: a positive integer; None for the next free one.
        class_names: one name for each class; None for the model's own, or the class numbers where it has none.
        evaluation_crop: how encoded images are brought to size, one of
            `keras_mixer.data.preprocessing.EVALUATION_CROPS`; None for the model's own, or "resmall-crop".
        top_k: how many classes and labels to return; at most n.

    Returns:
        The `Path` of the version that was written. It appears whole or not at all.

    Raises:
        ValueError: the version exists already (nothing is overwritten), or an argument does not fit the model.

    Source: ours; layout and names as TensorFlow Serving documents them.
    """
    classifier = Classifier.of(model, class_names, evaluation_crop)
    folder = Path(path)
    taken = [int(item.name) for item in folder.glob("*") if item.name.isdigit()]
    version = max(taken, default=0) + 1 if version is None else version
    if version < 1:
        raise ValueError(f"version must be a positive integer, not {version!r}.")
    if version in taken:
        raise ValueError(
            f"{folder / str(version)} exists already and is not overwritten; use version {max(taken) + 1}."
        )
    with whole(folder / str(version)) as temporary:
        _write(classifier, temporary, min(top_k, len(classifier.class_names)))
    return folder / str(version)


def _write(classifier, folder, top_k):
    model = classifier.model
    shape = model.input_shape[1:]
    names = tf.constant(classifier.class_names)

    def answer(probabilities):
        best = tf.math.top_k(probabilities, top_k).indices
        return {"probabilities": probabilities, "classes": best, "labels": tf.gather(names, best)}

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="image")])
    def from_pixels(image):
        return answer(model(image, training=False))

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def from_bytes(image_bytes):
        pixels = tf.map_fn(
            lambda encoded: evaluation_image(encoded, shape[:2], classifier.evaluation_crop),
            image_bytes,
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        )
        return answer(model(tf.cast(pixels, tf.float32), training=False))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", from_pixels)
    if shape[-1] == 3:  # encoded images are decoded to RGB
        archive.add_endpoint("image_bytes", from_bytes)
    archive.write_out(str(folder), verbose=False)
    description = folder / DESCRIPTION
    description.parent.mkdir()
    description.write_text(json.dumps(classifier.description(), indent=2) + "\n", encoding="utf-8")
