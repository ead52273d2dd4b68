"""Which part of a picture speaks for a class: the class activation map on the grid of tokens."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.export.predictor import Predictor
from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing

SMALLEST_PICTURE = 96  # pixels; below that a person sees nothing


def saliency(model, image, class_index=None) -> np.ndarray:
    """`(H, W, channels) -> (H, W) float32`: what every place adds to the logit of a class.

    The head is linear in the mean over tokens, so the logit is the mean of one number for each token, plus the bias:
    the map is exact, and equals Grad-CAM at the last LayerNorm but for Grad-CAM's cut of what speaks against the class.
    The grid is stretched bilinearly to the size of the image.

    Args:
        model: a classifier of this package.
        image: pixels as the model takes them.
        class_index: the class; None for the most probable one.

    Returns:
        The map. Positive places speak for the class, negative ones against it.

    Raises:
        ValueError: the model has no head, or no such class.

    Source: ours, after Zhou et al. 2016 (arXiv 1512.04150) and Selvaraju et al. 2017 (arXiv 1610.02391).

    Example:
        >>> saliency(keras_mixer.MixerS32(classes=10), np.zeros((224, 224, 3))).shape
        (224, 224)
    """
    layers = {layer.name: layer for layer in model.layers}
    if "head" not in layers:
        raise ValueError(f"Model {model.name!r} has no head, so there is no class to explain.")
    extractor = feature_extractor(model, ["normed", "logits"])
    features = extractor.predict_on_batch(np.asarray(image)[None])
    classes = features["logits"].shape[-1]
    index = int(features["logits"][0].argmax()) if class_index is None else class_index
    if not 0 <= index < classes:
        raise ValueError(f"class_index must lie in 0 to {classes - 1}, not {class_index!r}.")
    tokens = features["normed"][0] @ layers["head"].kernel.numpy()[:, index]  # (g_h, g_w)
    return np.asarray(tf.image.resize(tokens[..., None], np.shape(image)[:2]))[..., 0]


def overlay(image, activation) -> np.ndarray:
    """`(H, W, 3) pixels in [0, 255], (H, W) -> (H, W, 3) uint8`: the image in grey, red for the class, blue against."""
    grey = np.asarray(image, np.float32).mean(-1, keepdims=True)
    strength = (activation / max(np.abs(activation).max(), 1e-12))[..., None]
    colour = np.where(strength > 0, np.array([255.0, 40.0, 0.0]), np.array([0.0, 90.0, 255.0]))
    weight = 0.65 * np.abs(strength)
    return ((1 - weight) * grey + weight * colour).clip(0, 255).astype(np.uint8)


def write_picture(model, image_path, output, class_name=None) -> str:
    """Writes the overlay of one image file as PNG, at the model's input size or 8 times that of tiny ones.

    Args:
        model: a classifier of this package.
        image_path: any image that `tf.io.decode_image` reads.
        output: the PNG file to write; it must not exist.
        class_name: the class; None for the most probable one.

    Returns:
        The name of the class that the picture explains.

    Raises:
        FileNotFoundError: there is no such image file.
        ValueError: an unknown class, an image that cannot be decoded, a model without head, or a file that exists
            already.
    """
    output = Path(output)
    refuse_existing(output)
    predictor = Predictor.of(model).for_classes("to explain")
    names = predictor.description.class_names
    if class_name is not None and class_name not in names:
        raise ValueError(f"Unknown class {class_name!r}; the model knows {', '.join(names[:20])}.")
    image = predictor.pixels(image_path)
    index = int(predictor.classify(image[None])[0].argmax()) if class_name is None else names.index(class_name)
    picture = overlay(image, saliency(predictor.model, image, index))
    if min(picture.shape[:2]) < SMALLEST_PICTURE:
        picture = picture.repeat(8, axis=0).repeat(8, axis=1)
    with atomic_write(output) as temporary:
        temporary.write_bytes(tf.io.encode_png(picture).numpy())
    return names[index]
