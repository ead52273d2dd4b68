"""The published sizes of MLP-Mixer and their exact costs."""

import dataclasses
import math
import numbers
from collections.abc import Iterable


def as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """`16 -> (16, 16)`, `(8, 16) -> (8, 16)`: a size as `(height, width)`; ValueError unless of positive integers."""
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(pair) != 2 or not all(map(is_count, pair)):
        raise ValueError(f"A size must be a positive integer or a pair (height, width) of them, got {size!r}.")
    return int(pair[0]), int(pair[1])


def is_count(value) -> bool:
    """Whether a value is a positive integer, of Python or of NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) > 0


@dataclasses.dataclass(frozen=True)
class Variant:
    """The five numbers that define a Mixer, named as in the authors' code. Source: Table 1 of arXiv 2105.01601."""

    patch_size: int | tuple[int, int]  # side P of a square patch in pixels, or (height, width)
    num_blocks: int  # L
    hidden_dim: int  # channels C of every token
    tokens_mlp_dim: int  # hidden units D_S of each token-mixing MLP
    channels_mlp_dim: int  # hidden units D_C of each channel-mixing MLP

    def __post_init__(self):
        height, width = as_pair(self.patch_size)  # equal sizes are equal, however they are given
        object.__setattr__(self, "patch_size", height if height == width else (height, width))

    def parameters(self, input_shape: tuple[int, int, int] = (224, 224, 3), classes: int = 1000) -> int:
        """Trainable parameters of the classifier; `classes=0` counts the body without a head."""
        tokens, channels = math.prod(token_grid(input_shape[:2], self.patch_size)), self.hidden_dim
        stem = (math.prod(as_pair(self.patch_size)) * input_shape[2] + 1) * channels
        token_mlp = 2 * tokens * self.tokens_mlp_dim + self.tokens_mlp_dim + tokens
        channel_mlp = 2 * channels * self.channels_mlp_dim + self.channels_mlp_dim + channels
        norm, head = 2 * channels, (channels + 1) * classes
        return stem + self.num_blocks * (token_mlp + channel_mlp + 2 * norm) + norm + head

    def macs(self, input_shape: tuple[int, int, int] = (224, 224, 3), classes: int = 1000) -> int:
        """Multiply-accumulate operations for one image: of matrix products only, not of LayerNorm, GELU and pooling."""
        tokens, channels = math.prod(token_grid(input_shape[:2], self.patch_size)), self.hidden_dim
        stem = tokens * math.prod(as_pair(self.patch_size)) * input_shape[2] * channels
        block = 2 * tokens * channels * (self.tokens_mlp_dim + self.channels_mlp_dim)
        return stem + self.num_blocks * block + channels * classes


VARIANTS: dict[str, Variant] = {
    "S/32": Variant(32, 8, 512, 256, 2048),
    "S/16": Variant(16, 8, 512, 256, 2048),
    "B/32": Variant(32, 12, 768, 384, 3072),
    "B/16": Variant(16, 12, 768, 384, 3072),
    "L/32": Variant(32, 24, 1024, 512, 4096),
    "L/16": Variant(16, 24, 1024, 512, 4096),
    "H/14": Variant(14, 32, 1280, 640, 5120),
    "S/8": Variant(8, 8, 512, 256, 2048),  # not in Table 1; there are weights (gsam)
}

# With one of ours, for small images and little data: 115,114 parameters for 16 px and 10 classes.
KNOWN_VARIANTS = VARIANTS | {"tiny/4": Variant(4, 4, 96, 64, 128)}


def token_grid(image_size, patch_size) -> tuple[int, int]:
    """Rows and columns of tokens of an image; sizes are `(height, width)` in pixels. ValueError unless patches fit."""
    image, patch = as_pair(image_size), as_pair(patch_size)
    for name, side, step in zip(("height", "width"), image, patch, strict=True):
        if side % step:
            found = f"The image {name} of {side} px is not a multiple of the patch {name} of {step} px"
            raise ValueError(f"{found}; the nearest multiple is {max(round(side / step), 1) * step} px.")
    return image[0] // patch[0], image[1] // patch[1]
