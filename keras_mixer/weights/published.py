"""The checkpoints published by Google and by Alibaba MIIL: training data, form and download.

Source: README and loader of google-research/vision_transformer and google-research/big_vision; for the names of the
gsam files vision_toolbox/backbones/mlp_mixer.py of gau-nernst/vision-toolbox; for miil timm/models/mlp_mixer.py.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from pathlib import Path

import keras

from keras_mixer.files import atomic_write
from keras_mixer.mixer_model import ModelFacts
from keras_mixer.variants import VARIANTS, Variant, token_grid
from keras_mixer.weights.imagenet_classes import imagenet_classes
from keras_mixer.weights.layouts import read_weights

BUCKET = "https://storage.googleapis.com/mixer_models"
SAM, GSAM = (f"ImageNet-1k with the {name} optimizer, weak augmentation" for name in ("SAM", "GSAM"))


@dataclasses.dataclass(frozen=True)
class Published:
    """One published checkpoint."""

    name: str  # the value of `weights=`
    variant: str  # its key in `VARIANTS`
    classes: int  # outputs of its head
    data: str  # its training data
    repository: str | None = None  # of timm on the Hugging Face Hub with the same weights
    google: bool = True  # in Google's bucket; else trained with timm, on pixels in [0, 1] and with erf GELU

    @property
    def urls(self) -> dict[str, str]:
        """The addresses of the file and of its copy, by their names in the cache."""
        file = f"Mixer-{self.variant.replace('/', '_')}.npz"
        urls = {f"{self.name}-{file}": f"{BUCKET}/{self.name}/{file}"} if self.google else {}
        if self.repository:
            hub, copy = os.environ.get("HF_ENDPOINT") or "https://huggingface.co", f"timm-{self.repository}"
            urls[f"{copy}-model.safetensors"] = f"{hub}/timm/{self.repository}/resolve/main/model.safetensors"
        return urls

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; all were trained on 224 px."""
        return token_grid((224, 224), VARIANTS[self.variant].patch_size)

    @property
    def facts(self) -> ModelFacts:
        """What a model with these weights knows."""
        names = tuple(name for _, name in imagenet_classes(self.classes))
        pixel_range = (-1.0, 1.0) if self.google else (0.0, 1.0)
        return ModelFacts(names, self.data, pixel_range=pixel_range, exact_gelu=not self.google)


PUBLISHED = (
    Published("imagenet1k", "B/16", 1000, "ImageNet-1k, from scratch", "mixer_b16_224.goog_in21k_ft_in1k"),
    Published("imagenet1k", "L/16", 1000, "ImageNet-1k, from scratch; overfits", "mixer_l16_224.goog_in21k_ft_in1k"),
    Published("imagenet21k", "B/16", 21843, "ImageNet-21k, pre-training only", "mixer_b16_224.goog_in21k"),
    Published("imagenet21k", "L/16", 21843, "ImageNet-21k, pre-training only", "mixer_l16_224.goog_in21k"),
    *(Published("sam", variant, 1000, SAM) for variant in ("B/16", "B/32")),
    *(Published("gsam", variant, 1000, GSAM) for variant in ("B/16", "B/32", "S/8", "S/16", "S/32")),
    Published("miil", "B/16", 1000, "ImageNet-21k-P, then ImageNet-1k", "mixer_b16_224.miil_in21k_ft_in1k", False),
    Published("miil_in21k", "B/16", 11221, "ImageNet-21k-P, pre-training only", "mixer_b16_224.miil_in21k", False),
)
NAMES = tuple(dict.fromkeys(published.name for published in PUBLISHED))  # the values of `weights=` that are not files


def find(name, variant: Variant | None) -> Published:
    """The published checkpoint of a name for a model of these sizes, or a widened one; ValueError if there is none."""
    published = {one.variant: one for one in PUBLISHED if one.name == name}
    for key, one in published.items():
        if variant and dataclasses.replace(VARIANTS[key], tokens_mlp_dim=variant.tokens_mlp_dim) == variant:
            return one
    found = f", not for {variant}. Choose one of these, or weights=None" if variant else f": build one with {name!r}"
    raise ValueError(f"{name!r} is published for {', '.join(published)}{found}.")


def download(published: Published) -> Path:
    """The file of a published checkpoint, downloaded on first use into Keras's cache, or timm's copy if that fails."""
    cache = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser(), "keras_mixer")
    places = {cache / name: url for name, url in published.urls.items()}
    if cached := [file for file in places if file.is_file()]:
        return cached[0]
    failed: list[str] = []
    for file, url in places.items():
        if failed:
            logging.getLogger("keras_mixer").warning("%s\nTrying timm's copy.", failed[0])
        try:
            # Keras would leave part of a file behind if it is killed, and prints a progress bar.
            with atomic_write(file) as temporary, contextlib.redirect_stdout(sys.stderr):
                keras.utils.get_file(temporary.name, url, cache_subdir="", cache_dir=str(temporary.parent))
                read_weights(temporary)  # complete
            return file
        except Exception as error:  # Keras raises Exception itself
            failed.append(f"Downloading {url} failed: {error}. Without internet, put the file here by hand: {file}")
    raise OSError("\ntimm's copy failed too: ".join(failed))
