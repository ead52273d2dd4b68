"""Image files of every awkward kind, written from scikit-learn's two sample photographs."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_mixer.data.decode import evaluation_crop, image_of


def photographs():
    return [np.ascontiguousarray(image) for image in load_sample_images().images]


def encode(image, format, mode=None, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


def decoded(encoded, orientation=1):
    return image_of({"image": tf.convert_to_tensor(encoded), "orientation": tf.constant(orientation)})


def evaluated(encoded, size, crop, orientation=1):
    """The pixels that a model sees when it is evaluated."""
    return evaluation_crop(decoded(encoded, orientation), size, crop)


def turned(image, orientation=6):
    """A JPEG with an EXIF orientation, by default "rotate by 90 degrees clockwise to see it upright"."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", exif=exif)


def write_folder(root, images_per_class=6, classes=("circle", "stripe"), size=(40, 48), parts=("train", "test")):
    """An image folder of two easily told classes; `parts=()` puts the classes directly below `root`."""
    rng = np.random.default_rng(0)
    for part in parts or ("",):
        for number, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(images_per_class):
                pixels = rng.integers(0, 80, (*size, 3), dtype=np.uint8)
                pixels[..., number % 3] += 150
                (folder / f"{i}.{('png', 'jpg')[i % 2]}").write_bytes(encode(pixels, ("PNG", "JPEG")[i % 2]))
    return root
