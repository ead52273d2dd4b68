"""JPEG files of 500 x 375 px, cropped from scikit-learn's two sample photographs: similar to ImageNet."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = (500, 375)
QUALITY = 90


def write_photographs(folder, count, part="train"):
    """Writes `count` files `folder/PART/CLASS/*.jpg` in two classes, deterministically; returns their mean bytes."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    sizes = []
    for i in range(count):
        photograph = photographs[i % 2]
        width = int(rng.integers(400, 569))
        height = width * 3 // 4
        left, top = (int(rng.integers(0, room + 1)) for room in (photograph.width - width, photograph.height - height))
        crop = photograph.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.BICUBIC)
        path = folder / part / str(i % 2) / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, "JPEG", quality=QUALITY)
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes))
