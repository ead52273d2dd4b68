"""Which patches of an image a class depends on: the probability that is lost when a patch is covered."""

from pathlib import Path

import numpy as np

from keras_mixer.anatomy import Anatomy
from keras_mixer.export.predictor import Predictor, preprocess_image
from keras_mixer.files import refuse_existing
from keras_mixer.inspect.figures import write_figure

MOST_COVERS = 8  # along each side of an image: B/16 looks at 50 images instead of 197
STRONGEST = 0.65  # of a color over the image


def saliency(predictor, image, class_index, rival=None) -> np.ndarray:
    """`(H, W, channels) -> (g_h, g_w) float32`: the probability that a class loses when each patch is covered.

    A patch is covered with the median color of the image, so a patch that shows nothing has exactly 0; on large grids,
    squares of patches are covered together. Positive values support the class, negative values contradict it.

    With a rival, the map is that of the difference of the two probabilities.

    Source: occlusion sensitivity, Zeiler and Fergus 2014 (arXiv 1311.2901), with the model's own patches.
    """
    image = np.asarray(image)
    rows, columns = Anatomy(predictor.model).grid
    together = -(-max(rows, columns) // MOST_COVERS)  # patches along the side of a square
    height, width = (together * side // count for side, count in zip(image.shape, (rows, columns), strict=False))
    down, across = -(-rows // together), -(-columns // together)
    covered = np.repeat(image[None], 1 + down * across, axis=0)  # the first one stays as it is
    color = np.median(image, axis=(0, 1))
    for square, (row, column) in zip(covered[1:], np.ndindex(down, across), strict=True):
        square[row * height :, column * width :][:height, :width] = color
    probabilities = np.asarray(predictor.inputs["image"](covered.astype(np.float32)))
    score = probabilities[:, class_index] - (0 if rival is None else probabilities[:, rival])
    lost = (score[0] - score[1:]).reshape(down, across)
    return lost.repeat(together, axis=0).repeat(together, axis=1)[:rows, :columns]


def overlay(image, activation) -> np.ndarray:
    """`(H, W, 3) in [0, 255], (g_h, g_w) -> (H, W, 3) uint8`: a gray image, red where positive, blue where negative."""
    gray = np.asarray(image, np.float32).mean(-1, keepdims=True)
    size = [pixels // cells for pixels, cells in zip(gray.shape, activation.shape, strict=False)]
    strength = np.kron(activation / max(np.abs(activation).max(), 1e-12), np.ones(size))[..., None]
    color = np.where(strength > 0, np.array([255.0, 40.0, 0.0]), np.array([0.0, 90.0, 255.0]))
    weight = STRONGEST * np.abs(strength)
    return ((1 - weight) * gray + weight * color).clip(0, 255).astype(np.uint8)


def write_saliency(model, image_path, output, class_name=None) -> str:
    """Draws an image next to what its patches contribute to a class, by default the most probable one.

    Returns the name of the class. ValueError if it is unknown, the image cannot be decoded, the model has no head, or
    `output` exists.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    output = Path(output)
    refuse_existing(output)
    predictor = Predictor.of(model).for_classes("to explain")
    names = predictor.class_names
    if class_name is not None and class_name not in names:
        raise ValueError(f"Unknown class {class_name!r}; the model has {', '.join(names[:20])}.")
    image = preprocess_image(image_path, predictor)
    probabilities = predictor.probabilities(image[None])[0]
    index = max((i for i, name in enumerate(names) if class_name in (None, name)), key=probabilities.__getitem__)
    activation = saliency(predictor, image, index)
    limit = 100 * max(np.abs(activation).max(), 1e-12)  # percentage points

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image)
    left.set_title(f"{names[index]}: {probabilities[index]:.1%}", parse_math=False)
    right.imshow(overlay(image, activation))
    right.set_title("what the class loses without a patch")
    for ax in (left, right):
        ax.axis("off")
    blue_to_red = ScalarMappable(Normalize(-limit, limit), "coolwarm")
    figure.colorbar(blue_to_red, ax=right, shrink=0.8, label="percentage points")
    write_figure(figure, output)
    return names[index]
