"""The checkpoints published by Google and by Alibaba MIIL: their training data, accuracy and download.

Not published: L/32 and H/14, anything trained on JFT-300M, and anything that Google pre-trained on ImageNet-21k and
then fine-tuned on ImageNet (according to an author of the paper in huggingface/pytorch-image-models, pull request 651).
So timm's files named goog_in21k_ft_in1k are those trained on ImageNet from scratch.

Source: README and loader of google-research/vision_transformer and google-research/big_vision; for the names of the
gsam files vision_toolbox/backbones/mlp_mixer.py of gau-nernst/vision-toolbox; for miil timm/models/mlp_mixer.py.
"""

import dataclasses
import logging
import os
from pathlib import Path

from keras_mixer.imagenet_classes import imagenet_classes
from keras_mixer.mixer_model import ModelFacts
from keras_mixer.variants import VARIANTS, Variant
from keras_mixer.weights.downloads import cache_path, cached_download
from keras_mixer.weights.layouts import own_names
from keras_mixer.weights.readers import read_arrays

LOG = logging.getLogger("keras_mixer")
BUCKET = "https://storage.googleapis.com/mixer_models"
HUB = "https://huggingface.co"  # unless HF_ENDPOINT names a mirror


@dataclasses.dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        name: the value of `weights=`.
        variant: its key in `VARIANTS`.
        file: path below `BUCKET`; "" for a file of `repository`.
        classes: outputs of its head.
        data: its training data.
        accuracy: published ImageNet top-1 accuracy in percent; None without an ImageNet head, or if there is no figure
            for this very file.
        measured: how and by whom that accuracy was measured. Not measured here.
        repository: of `model.safetensors` on the Hugging Face Hub; None for Google's bucket.
        timm_copy: repository on the Hugging Face Hub with timm's conversion of the same weights, or None; used if the
            bucket cannot be reached.
        exact_gelu: whether the model computes the erf form of GELU.
        pixel_range: values of a black and a white pixel at the stem.
    """

    name: str
    variant: str
    file: str
    classes: int
    data: str
    accuracy: float | None
    measured: str
    repository: str | None = None
    timm_copy: str | None = None
    exact_gelu: bool = False
    pixel_range: tuple[float, float] = (-1.0, 1.0)

    @property
    def urls(self) -> dict[str, str]:
        """The addresses of the file and of timm's copy, if there is one, by their names in the cache."""
        hub = os.environ.get("HF_ENDPOINT") or HUB
        files = {} if self.repository else {self.file: f"{BUCKET}/{self.file}"}
        for repository in (self.repository, self.timm_copy):
            if repository:
                name = "model.safetensors"
                files[f"{repository}/{name}"] = f"{hub}/{repository}/resolve/main/{name}"
        return {name.replace("/", "-"): url for name, url in files.items()}

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; all were trained on 224 px."""
        return VARIANTS[self.variant].grid((224, 224, 3))

    @property
    def facts(self) -> ModelFacts:
        """What a model with these weights knows."""
        names = tuple(name for _, name in imagenet_classes(self.classes))
        return ModelFacts(names, self.data, pixel_range=self.pixel_range, exact_gelu=self.exact_gelu)


GSAM = (
    "no figure for these files: the first upload had a conversion error (google-research/vision_transformer, issue 195)"
)
PUBLISHED = (
    Published(
        "imagenet1k", "B/16", "imagenet1k/Mixer-B_16.npz", 1000, "ImageNet-1k, from scratch", 76.44,
        'Table 3 of the paper, crop "resmall-crop" (short side 256, central 224)',
        timm_copy="timm/mixer_b16_224.goog_in21k_ft_in1k",
    ),
    Published(
        "imagenet1k", "L/16", "imagenet1k/Mixer-L_16.npz", 1000, "ImageNet-1k, from scratch; overfits", 71.76,
        'Table 3 of the paper, crop "resmall-crop" (short side 256, central 224)',
        timm_copy="timm/mixer_l16_224.goog_in21k_ft_in1k",
    ),
    Published(
        "imagenet21k", "B/16", "imagenet21k/Mixer-B_16.npz", 21843, "ImageNet-21k, pre-training only", None,
        "80.64 % on ImageNet after fine-tuning (Table 3); the fine-tuned file is not public",
        timm_copy="timm/mixer_b16_224.goog_in21k",
    ),
    Published(
        "imagenet21k", "L/16", "imagenet21k/Mixer-L_16.npz", 21843, "ImageNet-21k, pre-training only", None,
        "82.89 % on ImageNet after fine-tuning (Table 3); the fine-tuned file is not public",
        timm_copy="timm/mixer_l16_224.goog_in21k",
    ),
    Published(
        "sam", "B/16", "sam/Mixer-B_16.npz", 1000, "ImageNet-1k with the SAM optimizer, weak augmentation", 77.36,
        "README of keras_cv_attention_models",
    ),
    Published(
        "sam", "B/32", "sam/Mixer-B_32.npz", 1000, "ImageNet-1k with the SAM optimizer, weak augmentation", 72.47,
        "README of keras_cv_attention_models",
    ),
    *(
        Published(
            "gsam", variant, f"gsam/Mixer-{variant.replace('/', '_')}.npz", 1000,
            "ImageNet-1k with the GSAM optimizer, weak augmentation", None, GSAM,
        )
        for variant in ("B/16", "B/32", "S/8", "S/16", "S/32")
    ),
    Published(
        "miil", "B/16", "", 1000, "ImageNet-21k-P, fine-tuned on ImageNet-1k", 82.31,
        "timm's results-imagenet.csv", repository="timm/mixer_b16_224.miil_in21k_ft_in1k",
        exact_gelu=True, pixel_range=(0.0, 1.0),
    ),
    Published(
        "miil_in21k", "B/16", "", 11221, "ImageNet-21k-P, pre-training only", None,
        "82.31 % on ImageNet after fine-tuning (miil)", repository="timm/mixer_b16_224.miil_in21k",
        exact_gelu=True, pixel_range=(0.0, 1.0),
    ),
)  # fmt: skip


def names() -> tuple[str, ...]:
    """The values of `weights=` that are not files."""
    return tuple(dict.fromkeys(published.name for published in PUBLISHED))


def find(name, variant: Variant | None) -> Published:
    """The published checkpoint of a name for a model of these sizes; D_S may be that of a widened model.

    Raises:
        ValueError: there is none, or `variant` is None; lists the variants that are published.
    """
    candidates = [published for published in PUBLISHED if published.name == name]
    if variant is None:
        variants = [published.variant for published in candidates]
        raise ValueError(
            f"{name!r} is published for {', '.join(variants)}: the name alone does not identify a file. Build the "
            f"model with it, such as keras_mixer.Mixer{variants[0].replace('/', '')}(weights={name!r}), and save that."
        )
    for published in candidates:
        sizes = VARIANTS[published.variant]
        if variant.tokens_mlp_dim % sizes.tokens_mlp_dim == 0:
            narrow = dataclasses.replace(variant, tokens_mlp_dim=sizes.tokens_mlp_dim)
            if narrow == sizes:
                return published
    this = next((f"Mixer-{key}" for key, sizes in VARIANTS.items() if sizes == variant), f"a model of {variant}")
    raise ValueError(
        f"There are no public weights {name!r} for {this}. Published: "
        + ", ".join(f"{published.name!r} for {published.variant}" for published in PUBLISHED)
        + "."
    )


def download(published: Published) -> Path:
    """The file of a published checkpoint, downloaded on first use into Keras's cache (`KERAS_HOME`).

    If the download fails and timm has the same weights, its file is used, now and later.

    Raises:
        OSError: the download failed; nothing is left behind.
        ValueError: the file is not a Mixer checkpoint.
    """
    urls, failed = published.urls, []
    for name, url in sorted(
        urls.items(), key=lambda item: not cache_path(item[0]).is_file()
    ):  # those in the cache first
        try:
            return cached_download(url, name, lambda file: _check(file, url))  # noqa: B023 (called at once)
        except OSError as error:
            failed.append(str(error))
            if len(failed) < len(urls):
                LOG.warning("%s Trying timm's copy.", error)
    raise OSError(" timm's copy failed too: ".join(failed))


def _check(file, url):
    try:
        own_names(read_arrays(file))
    except ValueError as error:
        raise ValueError(f"{url} is not a Mixer checkpoint: {error}") from error
