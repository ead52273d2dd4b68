"""SavedModel with stable signatures: pixels or encoded images in, probabilities and class names out.

It contains warm-up requests, which TensorFlow Serving runs before a version takes traffic, so that no client waits:
`tensorflow.serving.PredictionLog` messages, encoded by hand because the package with their Python classes,
tensorflow-serving-api, would install a second TensorFlow.

Source: prediction_log.proto, predict.proto and model.proto of tensorflow_serving/apis; the field numbers are theirs.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.anatomy import Anatomy
from keras_mixer.data import decode
from keras_mixer.export.predictor import Predictor, in_precision, require_tensorflow
from keras_mixer.export.runtimes import SAVED_MODEL_DESCRIPTION
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.training.recipe import Count, check

REQUESTS = "assets.extra/tf_serving_warmup_requests"  # where TensorFlow Serving expects them
PREDICT_LOG, REQUEST, MODEL_SPEC, INPUTS = 6, 1, 1, 2  # fields of the messages
NAME, SIGNATURE_NAME, KEY, VALUE = 1, 3, 1, 2
DECODING_THREADS = 8  # per batch; more than the cores of a server does no harm


def export_saved_model(
    model,
    path,
    *,
    version=None,
    class_names=None,
    evaluation_crop=None,
    classifier_activation=None,
    top_k=5,
    precision="float32",
):
    """Writes a Mixer to `path/VERSION/`, as TensorFlow Serving expects it; `keras_mixer.export` also verifies it.

    Signatures, all with a free batch size B and n classes:
        `serving_default`: `image` (B, H, W, channels) float32 in [0, 255];
        `image_uint8`: the same as uint8, a quarter of the bytes on the wire;
        `image_bytes`: `image_bytes` (B,) string, JPEG and PNG images of any size, decoded and cropped inside, but not
        turned as their EXIF orientation says. REST clients send `{"b64": ...}`. If images cannot be decoded, the error
        lists their indices in the batch. Only for models of RGB images;
        `features`: `image` as above to `pre_logits` (B, C), the mean over tokens before the head.
    The first three return `probabilities` (B, n) float32 in class order and, best first, `classes` (B, k) int32 and
    `labels` (B, k) string. A model without a head has only `features`, also as `serving_default`.

    Whatever the model takes and gives, its export takes [0, 255] and gives probabilities, in the given precision.
    Warm-up requests for TensorFlow Serving are in `assets.extra`.

    Args:
        model: a Mixer of this package, on the TensorFlow backend.
        path: folder of all versions of the model.
        version: a positive integer; None for the next free one.
        class_names: one name per class; None for the model's own, or the class numbers.
        evaluation_crop: how images are cropped and resized: "resize", "resize-crop" or "resmall-crop"; None for the
            model's own, or "resmall-crop".
        classifier_activation: for a model that outputs logits, "softmax" or "sigmoid"; None for the one implied by the
            compiled loss, else "softmax".
        top_k: how many classes and labels to return; at most n.
        precision: "float32", or "bfloat16" for half the size: weights before the head are stored and multiplied in it,
            LayerNorm statistics, pooling and head stay float32. Slower on processors that do not multiply bfloat16.

    Returns:
        The `Path` of the version, written atomically.

    Raises:
        ValueError: the version exists (nothing is overwritten), the model is not a Mixer, its output is not
            probabilities, logits or features, an argument is invalid, or Keras runs on another backend.
    """
    require_tensorflow()
    target = version_folder(path, version)
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation)
    refuse_existing(target)
    with atomic_write(target) as written:
        write_saved_model(predictor, written, top_k=top_k, precision=precision)
    return target


def write_saved_model(predictor, folder, *, top_k=5, precision="float32"):
    """Writes a SavedModel into a folder; the one around it has the name of the model on a server."""
    check("top_k", top_k, Count)
    model = in_precision(predictor.model, precision)
    signatures = _signatures(model, predictor, top_k)
    write_functions(signatures, model, folder)
    described = folder / SAVED_MODEL_DESCRIPTION
    described.parent.mkdir()
    described.write_text(predictor.as_json(), encoding="utf-8")
    gray = np.full((1, *predictor.input_shape), 128, np.uint8)
    with tf.io.TFRecordWriter(str(folder / REQUESTS)) as writer:
        for name, function in signatures.items():
            (spec,) = function.input_signature
            encoded = spec.dtype == tf.string
            image = [tf.io.encode_jpeg(gray[0]).numpy()] if encoded else gray.astype(spec.dtype.as_numpy_dtype)
            model_spec = {NAME: folder.parent.name.encode(), SIGNATURE_NAME: name.encode()}
            given = {KEY: spec.name.encode(), VALUE: tf.make_tensor_proto(image).SerializeToString()}
            writer.write(_message({PREDICT_LOG: {REQUEST: {MODEL_SPEC: model_spec, INPUTS: given}}}))


def _message(fields) -> bytes:
    """A protocol buffer of length-delimited fields: `{number: bytes or other fields}`."""
    encoded = b""
    for number, content in fields.items():
        content = _message(content) if isinstance(content, dict) else content
        of_field_1 = tf.train.BytesList(value=[content]).SerializeToString()  # tag, length, content
        encoded += bytes([number << 3 | 2]) + of_field_1[1:]
    return encoded


def version_folder(path, version=None) -> Path:
    """`path/VERSION`, by default the version after the newest."""
    if version is None:
        version = 1 + max((int(item.name) for item in Path(path).glob("*") if item.name.isdigit()), default=0)
    return Path(path, str(check("version", version, Count)))


def write_functions(functions, model, folder):
    """Writes a SavedModel with `{signature: tf.function}`; Keras's `ExportArchive` would store functions twice."""
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    tf.saved_model.save(module, str(folder), functions)


def _signatures(model, predictor, top_k):
    """`{name: tf.function}`; pixels and names are those of `export_saved_model`."""
    shape, facts = predictor.input_shape, predictor.facts
    image_of = {dtype: [tf.TensorSpec((None, *shape), dtype, name="image")] for dtype in (tf.float32, tf.uint8)}
    mixer = Anatomy(model)
    tensors = mixer.apply()
    both = keras.Model(tensors[0], {"probabilities": tensors[-1], "pre_logits": mixer.pre_logits(tensors)})

    @tf.function(input_signature=image_of[tf.float32])  # one graph, shared by all signatures
    def outputs(image):
        image = tf.ensure_shape(image, (None, *shape))  # servers compare names and types with the signature, not shapes
        return both(image, training=False)

    features = tf.function(lambda image: {"pre_logits": outputs(image)["pre_logits"]}, image_of[tf.float32])
    if predictor.output == "features":
        return {"serving_default": features, "features": features}
    names = tf.constant(facts.class_names)

    @tf.function(input_signature=image_of[tf.float32])
    def from_pixels(image):
        probabilities = outputs(image)["probabilities"]
        best = tf.math.top_k(probabilities, min(top_k, len(names))).indices
        return {"probabilities": probabilities, "classes": best, "labels": tf.gather(names, best)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def from_bytes(image_bytes):
        pixels = evaluation_images(image_bytes, shape[:2], facts.evaluation_crop)
        return from_pixels(tf.cast(pixels, tf.float32))

    from_uint8 = tf.function(lambda image: from_pixels(tf.cast(image, tf.float32)), image_of[tf.uint8])
    signatures = {"serving_default": from_pixels, "image_uint8": from_uint8, "features": features}
    return signatures | ({"image_bytes": from_bytes} if shape[-1] == 3 else {})  # which decodes to RGB


def evaluation_images(encoded, image_size, crop):
    """`(B,) string -> (B, height, width, 3) uint8`: JPEG and PNG as stored, for a SavedModel, in multiple threads.

    If images cannot be decoded, the message of the error contains their indices.
    """
    count = tf.size(encoded, out_type=tf.int64)

    def prepared(i, image):
        return i, decode.evaluation_crop(decode.decode_jpeg_or_png(image), image_size, crop)

    numbered = tf.data.Dataset.from_tensor_slices(encoded).enumerate()
    good = numbered.map(prepared, num_parallel_calls=DECODING_THREADS).ignore_errors()
    end = tf.data.Dataset.from_tensors((count, tf.zeros((*image_size, 3), tf.uint8)))  # the batch is never empty
    indices, images = good.concatenate(end).batch(count + 1).get_single_element()
    bad = tf.where(tf.scatter_nd(indices[:, None], tf.ones_like(indices), [count + 1]) == 0)[:, 0]
    expected = f"expected JPEG or PNG files of at most {decode.LARGEST_IMAGE:,} pixels"
    message = f"images cannot be decoded ({expected}); their indices in the batch:"
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message, bad], summarize=100)]):
        return images[:-1]


def for_server(example):
    """The image of an example as a SavedModel takes it: `() string`, an upright JPEG or PNG."""
    image = example["image"]
    if image.dtype != tf.string:
        return tf.io.encode_png(image)
    as_it_is = decode.is_jpeg_or_png(image) & (example.get("orientation", decode.UPRIGHT) == decode.UPRIGHT)
    return tf.cond(as_it_is, lambda: image, lambda: tf.io.encode_png(decode.image_of(example)))
