"""Which regions of an image support a class: the class activation map on the grid of tokens."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.anatomy import plain
from keras_mixer.export.predictor import Predictor, preprocess_image
from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing

SMALLEST_SIDE = 96  # pixels; smaller images are enlarged to be visible


def saliency(model, image, class_index=None) -> np.ndarray:
    """`(H, W, channels) -> (H, W) float32`: the contribution of each location to the logit of a class.

    The head is linear in the mean over tokens, so the logit is the mean of one number per token plus the bias. The map
    is therefore exact; it equals Grad-CAM at the last LayerNorm without Grad-CAM's ReLU. The grid is resized
    bilinearly to the size of the image.

    Args:
        model: a classifier of this package.
        image: pixels as the model expects them.
        class_index: the class; None for the most probable one.

    Returns:
        The map: positive values support the class, negative values contradict it.

    Raises:
        ValueError: the model has no head, or `class_index` is out of range.

    Source: Zhou et al. 2016 (arXiv 1512.04150); Selvaraju et al. 2017 (arXiv 1610.02391).

    Example:
        >>> saliency(keras_mixer.MixerS32(classes=10), np.zeros((224, 224, 3))).shape
        (224, 224)
    """
    indices = None if class_index is None else [class_index]
    return saliency_maps(model, np.asarray(image)[None], indices)[0]


def saliency_maps(model, images, class_indices=None, rivals=None) -> np.ndarray:
    """`(B, H, W, channels) -> (B, H, W) float32`: `saliency` of a batch of images, one class for each.

    Args:
        model: a classifier of this package.
        images: pixels as the model expects them.
        class_indices: `(B,)`; None for the most probable classes.
        rivals: `(B,)` other classes. The maps then show what contributes to the difference of the two logits, which
            decides between the classes; a single logit may rise or fall with all others.

    Raises:
        ValueError: the model has no head, or a class is out of range.
    """
    head = plain(model, "saliency").head
    if head is None:
        raise ValueError(f"Model {model.name!r} has no head and predicts no classes.")
    extractor = feature_extractor(model, ["normed", "logits"])
    features = {name: keras.ops.convert_to_numpy(value) for name, value in extractor(np.asarray(images)).items()}
    classes = features["logits"].shape[-1]
    kernel = keras.ops.convert_to_numpy(head.kernel)  # (C, classes)

    def columns(indices):
        indices = np.asarray(indices)
        if indices.min() < 0 or indices.max() >= classes:
            raise ValueError(f"Expected class_index from 0 to {classes - 1}, got {indices.tolist()}.")
        return kernel[:, indices]  # (C, B)

    weights = columns(features["logits"].argmax(-1) if class_indices is None else class_indices)
    if rivals is not None:
        weights = weights - columns(rivals)
    tokens = np.einsum("bhwc,cb->bhw", features["normed"], weights)  # (B, g_h, g_w)
    return np.asarray(tf.image.resize(tokens[..., None], np.shape(images)[1:3]))[..., 0]


def overlay(image, activation) -> np.ndarray:
    """`(H, W, 3) in [0, 255], (H, W) -> (H, W, 3) uint8`: a grey image, red where positive and blue where negative."""
    grey = np.asarray(image, np.float32).mean(-1, keepdims=True)
    strength = (activation / max(np.abs(activation).max(), 1e-12))[..., None]
    colour = np.where(strength > 0, np.array([255.0, 40.0, 0.0]), np.array([0.0, 90.0, 255.0]))
    weight = 0.65 * np.abs(strength)
    return ((1 - weight) * grey + weight * colour).clip(0, 255).astype(np.uint8)


def write_saliency(model, image_path, output, class_name=None) -> str:
    """Writes the saliency overlay of an image file as PNG, at the model's input size (tiny ones enlarged 8 times).

    Args:
        model: a classifier of this package.
        image_path: an image that `tf.io.decode_image` can read.
        output: the PNG file to write; must not exist.
        class_name: the class; None for the most probable one.

    Returns:
        The name of the class shown.

    Raises:
        FileNotFoundError: the image file does not exist.
        ValueError: the class is unknown, the image cannot be decoded, the model has no head, or `output` exists.
    """
    output = Path(output)
    refuse_existing(output)
    predictor = Predictor.of(model).for_classes("to explain")
    names = predictor.class_names
    if class_name is not None and class_name not in names:
        raise ValueError(f"Unknown class {class_name!r}; the model has {', '.join(names[:20])}.")
    image = preprocess_image(image_path, predictor)
    probabilities = predictor.probabilities(image[None])[0]
    index = max((i for i, name in enumerate(names) if class_name in (None, name)), key=probabilities.__getitem__)
    shown = overlay(image, saliency(predictor.model, image, index))
    if min(shown.shape[:2]) < SMALLEST_SIDE:
        shown = shown.repeat(8, axis=0).repeat(8, axis=1)
    with atomic_write(output) as temporary:
        temporary.write_bytes(tf.io.encode_png(shown).numpy())
    return names[index]
