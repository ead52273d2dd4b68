"""A training run as plain data: everything that decides what it does."""

import dataclasses
from typing import Literal

from keras_mixer.training.fields import check_fields
from keras_mixer.variants import SMALL_VARIANTS, VARIANTS, Variant, as_pair

KNOWN_VARIANTS = VARIANTS | SMALL_VARIANTS
COUNTS = (
    *("epochs", "steps", "global_batch_size", "checkpoint_every_steps"),
    *("accumulation_steps", "steps_per_execution", "data_shards"),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run as data. Every field is an option of `keras-mixer train`."""

    name: str
    """Name of the recipe; the default run directory is runs/NAME."""

    data: str
    """"digits", the path of an image folder, or a TensorFlow Datasets name such as cifar10."""
    data_dir: str | None = None
    """Folder with prepared TensorFlow Datasets, local or gs://; by default that of tensorflow_datasets."""
    train_split: str = "train"
    """Training split: a TFDS split such as 'train[:99%]', or the sub-folder of an image folder."""
    test_split: str = "test"
    """Test split, likewise."""
    holdout: float = 0.0
    """Share of the training images that takes the place of the test part, in [0, 1): to choose settings honestly."""
    data_shards: int = 1
    """Parts that the training data are shuffled and read in; a multiple of the number of processes."""
    test_fraction: float = 0.2
    """Share of each class used for testing, in (0, 1), where an image folder has no split of its own."""

    variant: str = "B/16"
    """Row of Table 1, such as B/16, or tiny/4 for pictures of 16 px; the five numbers below replace its own."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    num_blocks: int | None = None
    """Number of Mixer blocks."""
    hidden_dim: int | None = None
    """Channels of a token."""
    tokens_mlp_dim: int | None = None
    """Hidden units of the token-mixing MLPs."""
    channels_mlp_dim: int | None = None
    """Hidden units of the channel-mixing MLPs."""
    weights: str | None = None
    """Weights to start from: imagenet1k, imagenet21k, sam, or a .npz, .safetensors, .keras or .weights.h5 file."""
    resolution_method: Literal["block_diagonal", "bilinear"] = "block_diagonal"
    """How weights made for another image size are fitted: the paper's rule, or stretched (not from the paper)."""
    image_size: int | tuple[int, int] = 224
    """Side of the model's input in pixels, or height and width."""
    dropout_rate: float = 0.0
    """Dropout in the MLPs, in [0, 1)."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last MLP, in [0, 1), rising linearly from 0 at the first."""

    epochs: int = 300
    """Passes over the training data; steps, where given, replaces it."""
    steps: int | None = None
    """Optimizer steps of the whole run."""
    global_batch_size: int = 4096
    """Images in a step, over all devices."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy over the classes (softmax), or of each class alone, summed (sigmoid)."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """What an example of each class counts in loss and training accuracy; balanced: inverse to its frequency."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in [0, 1); softmax only."""
    head_bias: float = 0.0
    """Start value of the head's biases; -6.9 and -10 (about -log of the classes) go with sigmoid."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (beta 0.9, 0.999, epsilon 1e-8), or SGD with momentum 0.9."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after the warm-up."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up: to 0 along a cosine, or straight to 1e-5 of the peak."""
    warmup_steps: int = 10_000
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.0
    """Decoupled decay of kernels only, multiplied by the learning rate (Keras's and the paper's convention)."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    ema_momentum: float | None = None
    """Share of the running average of the weights that stays at each step, in (0, 1), such as 0.999; the averaged
    weights are validated and kept. None keeps the last ones, as the paper does."""

    crop_area: tuple[float, float] = (0.05, 1.0)
    """Smallest and largest share of a training image that the random crop covers."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the random crop."""
    flip: bool = True
    """Mirror half of the training images left-right."""
    randaugment_num_ops: int = 0
    """RandAugment operations on each training image; 0 for none."""
    randaugment_level: float = 0.0
    """Strength of the operations, 0 to 20; the paper uses 10, 15 and 20."""
    randaugment_operations: tuple[str, ...] | None = None
    """Operations to draw from; None for the paper's sixteen."""
    randaugment_fill: int = 128
    """Grey value, 0 to 255, that appears where an operation moved the image away; the paper's is 128."""
    mixup_alpha: float = 0.0
    """Beta parameter of mixup (the paper's p, no probability); 0 for none."""
    cutmix_alpha: float = 0.0
    """Beta parameter of CutMix (not from the paper); 0 for none. With mixup too, each batch gets one of the two."""
    shuffle_buffer: int = 250_000
    """Encoded images (or paths) held in memory for shuffling."""
    cache_gib: float = 0.0
    """Memory, in GiB for each process, in which decoded training images stay after their first use, before they are
    cropped and augmented (500 x 375 px: 0.5 MiB each); those that no longer fit are decoded every time."""
    evaluation_crop: Literal["resize", "resize-crop", "resmall-crop"] = "resmall-crop"
    """How test images are brought to size: plain, 256 x 256 then centre, or short side 256 then centre (for 224)."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Number format of the arithmetic; weights and logits stay float32."""
    accumulation_steps: int = 1
    """Pieces in which the gradient of a batch is computed, one after the other, for less memory; one update for all."""
    rematerialize: bool = False
    """Compute each block's insides again for the gradient instead of keeping them: less memory, more time. No gain with
    JAX on CPUs, where XLA keeps them all the same."""
    steps_per_execution: int = 1
    """Optimizer steps between two visits of Python: more is faster where a step is short, as on TPUs."""
    xla_on_cpu: bool = False
    """Compile for one CPU with XLA too: about twice as fast for tiny models, slower for those of Table 1."""
    devices: str = "auto"
    """Where to train: auto, cpu, gpu, tpu, or how many devices of the best kind."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and all augmentation."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints; the newest two are kept."""

    def __post_init__(self):
        check_fields(self)
        if self.variant not in KNOWN_VARIANTS:
            raise ValueError(f"Unknown variant {self.variant!r}; valid ones are {', '.join(KNOWN_VARIANTS)}.")
        for field in COUNTS:
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}.")
        for field in ("accumulation_steps", "data_shards"):
            if self.global_batch_size % getattr(self, field):
                raise ValueError(
                    f"{field}={getattr(self, field)} must divide global_batch_size={self.global_batch_size}."
                )
        if not 0 <= self.cache_gib < float("inf"):
            raise ValueError(f"cache_gib must be 0 or more GiB of memory, not {self.cache_gib}.")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must lie in [0, 1), not {self.holdout}.")
        if self.ema_momentum is not None and not 0 < self.ema_momentum < 1:
            raise ValueError(f"ema_momentum must lie between 0 and 1, not {self.ema_momentum}.")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction must lie between 0 and 1, not {self.test_fraction}.")
        if self.label_smoothing and self.loss == "sigmoid":
            raise ValueError("label_smoothing works with loss 'softmax' only; set one of the two to its default.")
        if self.rematerialize and self.dropout_rate:
            raise ValueError(
                "rematerialize would draw other dropout masks the second time; set dropout_rate to 0, or do without."
            )

    def architecture(self) -> Variant:
        """The five sizes of the model."""
        fields = [field.name for field in dataclasses.fields(Variant)]
        given = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return dataclasses.replace(KNOWN_VARIANTS[self.variant], **given)

    def input_shape(self) -> tuple[int, int, int]:
        """`(height, width, 3)` of the model's input in pixels."""
        return (*as_pair(self.image_size), 3)
