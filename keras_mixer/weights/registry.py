"""The checkpoints that Google published: where they are, what they were trained on, how good they are, and a download.

Nothing is published for S, L/32 and H/14, nothing trained on JFT-300M, and nothing pre-trained on ImageNet-21k and then
fine-tuned on ImageNet (a paper author in huggingface/pytorch-image-models, pull request 651).

Source: README and loader of google-research/vision_transformer and google-research/big_vision.
"""

import dataclasses
import hashlib
import os
import time
from pathlib import Path

from keras_mixer.downloads import download as download_file
from keras_mixer.variants import VARIANTS, Variant
from keras_mixer.weights.archives import open_arrays
from keras_mixer.weights.layouts import own_names

BUCKET = "https://storage.googleapis.com/mixer_models"
LARGEST_CHECKPOINT = 2_000_000_000  # bytes; the largest of the files below has 918 MB
STALE_SECONDS = 24 * 3600  # a partial download that old belongs to nobody


@dataclasses.dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        name: what `weights=` takes.
        variant: its row of Table 1.
        file: path below `BUCKET`.
        classes: outputs of its head.
        data: what it was trained on.
        accuracy: published ImageNet top-1 in percent, None for a checkpoint without an ImageNet head.
        measured: how that accuracy was measured, and by whom. Not measured here.
    """

    name: str
    variant: str
    file: str
    classes: int
    data: str
    accuracy: float | None
    measured: str

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"{BUCKET}/{self.file}"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; all were trained on 224 px."""
        return VARIANTS[self.variant].grid((224, 224, 3))

    @property
    def preprocessing(self) -> str:
        """What pixels must look like; the same for all."""
        return "RGB, pixels mapped from [0, 255] to [-1, 1] (include_preprocessing=True does it)"


PUBLISHED = (
    Published(
        "imagenet1k", "B/16", "imagenet1k/Mixer-B_16.npz", 1000, "ImageNet-1k, from scratch", 76.44,
        'Table 3 of the paper, crop "resmall-crop" (short side 256, central 224)',
    ),
    Published(
        "imagenet1k", "L/16", "imagenet1k/Mixer-L_16.npz", 1000, "ImageNet-1k, from scratch; overfits", 71.76,
        'Table 3 of the paper, crop "resmall-crop" (short side 256, central 224)',
    ),
    Published(
        "imagenet21k", "B/16", "imagenet21k/Mixer-B_16.npz", 21843, "ImageNet-21k, pre-training only", None,
        "80.64 % on ImageNet after fine-tuning (Table 3); the fine-tuned file is not public",
    ),
    Published(
        "imagenet21k", "L/16", "imagenet21k/Mixer-L_16.npz", 21843, "ImageNet-21k, pre-training only", None,
        "82.89 % on ImageNet after fine-tuning (Table 3); the fine-tuned file is not public",
    ),
    Published(
        "sam", "B/16", "sam/Mixer-B_16.npz", 1000, "ImageNet-1k with the SAM optimizer, weak augmentation", 77.36,
        "README of keras_cv_attention_models",
    ),
    Published(
        "sam", "B/32", "sam/Mixer-B_32.npz", 1000, "ImageNet-1k with the SAM optimizer, weak augmentation", 72.47,
        "README of keras_cv_attention_models",
    ),
)  # fmt: skip


def names() -> tuple[str, ...]:
    """What `weights=` takes besides files."""
    return tuple(dict.fromkeys(published.name for published in PUBLISHED))


def find(name, variant: Variant | None) -> Published:
    """The published file of a name for a model of certain sizes; D_S may be that of a widened model.

    Raises:
        ValueError: there is none, or no sizes were given; says which variants have one.
    """
    having = [published for published in PUBLISHED if published.name == name]
    if variant is None:
        variants = [published.variant for published in having]
        raise ValueError(
            f"{name!r} is published for {', '.join(variants)}: the name alone does not say which. Build the model with "
            f"it, such as keras_mixer.Mixer{variants[0].replace('/', '')}(weights={name!r}), and save that."
        )
    for published in having:
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
    """The file of a published checkpoint, downloaded at first use into Keras's cache (`KERAS_HOME`).

    It appears in the cache only when complete and readable. Its SHA-256 is written beside it then and compared at every
    later use. Google publishes no checksum, so the first download is trusted as far as https is.

    Raises:
        OSError: the download failed; nothing is left behind. Run again to try again.
        ValueError: what came is no Mixer checkpoint, or the cached file has changed since it was downloaded.
    """
    folder = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser(), "keras_mixer")
    target = folder / published.file.replace("/", "-")
    recorded = target.with_suffix(".sha256")
    if target.is_file():
        found = _sha256(target)
        if not recorded.is_file():  # put there by hand, on a machine without internet
            own_names(open_arrays(target))
            recorded.write_text(f"{found}  {target.name}\n", encoding="utf-8")
        if found != recorded.read_text(encoding="utf-8").split()[0]:
            raise ValueError(f"{target} has changed since it was downloaded (SHA-256); remove it to download it again.")
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.part"):
        if time.time() - stale.stat().st_mtime > STALE_SECONDS:
            stale.unlink(missing_ok=True)
    partial = folder / f"{target.stem}-{os.getpid()}.part"
    try:
        partial.unlink(missing_ok=True)
        with partial.open("wb") as file:
            try:
                download_file(published.url, file, LARGEST_CHECKPOINT, progress=True)
            except OSError as error:
                raise OSError(f"{error} Without internet, put the file there by hand: {target}") from error
        try:
            own_names(open_arrays(partial))
        except ValueError as error:
            raise ValueError(f"{published.url} gave no Mixer checkpoint: {error}") from error
        recorded.write_text(f"{_sha256(partial)}  {target.name}\n", encoding="utf-8")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
