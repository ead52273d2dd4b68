"""The best classes of an image, from a local model or from a server."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best classes of one image.

    Attributes:
        image: its path.
        labels: class names, best first.
        probabilities: of these, each in [0, 1].
    """

    image: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
