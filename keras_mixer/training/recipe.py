"""A training run as plain data: everything that decides what it does."""

import dataclasses
import re
from typing import Annotated, Literal

from keras_mixer.data.settings import RANDAUGMENT_OPERATIONS, Augmentation, EvaluationCrop
from keras_mixer.fields import (
    ANY,
    ASCENDING,
    SOME,
    Count,
    CountFrom0,
    Fraction,
    NonNegative,
    Positive,
    Range,
    Rate,
    Seed,
    Text,
    Where,
    check_fields,
    one_of,
)
from keras_mixer.variants import SMALL_VARIANTS, VARIANTS, Variant, as_pair

KNOWN_VARIANTS = VARIANTS | SMALL_VARIANTS

FileName = Annotated[str, Where("a file name", re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]+").fullmatch)]
DeviceChoice = Annotated[
    str, Where("auto, cpu, gpu, tpu or a number from 1", re.compile("auto|cpu|gpu|tpu|[1-9][0-9]*").fullmatch)
]
VariantName = Annotated[str, one_of(KNOWN_VARIANTS)]
Area = Annotated[float, Range("(0, 1]")]
Operations = Annotated[tuple[Annotated[str, one_of(RANDAUGMENT_OPERATIONS)], ...], SOME]
ClassWeights = Annotated[tuple[NonNegative, ...], Where("numbers of which one or more are above 0", any)]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run as data. Every field is an option of `keras-mixer train`."""

    name: FileName
    """Name of the recipe, a file name; the default run directory is runs/NAME."""

    data: Text
    """"digits", the path of an image folder, or a TensorFlow Datasets name such as cifar10."""
    data_dir: Text | None = None
    """Folder with prepared TensorFlow Datasets, local or gs://; by default that of tensorflow_datasets."""
    train_split: Text = "train"
    """Training split: a TFDS split such as 'train[:99%]', or the sub-folder of an image folder."""
    test_split: Text = "test"
    """Test split, likewise."""
    holdout: Rate = 0.0
    """Fraction of the training images that replaces the test part, in [0, 1): to choose settings honestly."""
    data_shards: Count = 1
    """Parts that the training data are shuffled and read in, at least 1; a multiple of the number of processes that
    divides global_batch_size."""
    test_fraction: Fraction = 0.2
    """Fraction of each class used for testing, in (0, 1), where an image folder has no split of its own."""

    variant: VariantName = "B/16"
    """Row of Table 1, such as B/16, or tiny/4 for pictures of 16 px; the five numbers below replace its own."""
    patch_size: Count | None = None
    """Side of a patch in pixels, at least 1."""
    num_blocks: Count | None = None
    """Number of Mixer blocks, at least 1."""
    hidden_dim: Count | None = None
    """Channels of a token, at least 1."""
    tokens_mlp_dim: Count | None = None
    """Hidden units of the token-mixing MLPs, at least 1."""
    channels_mlp_dim: Count | None = None
    """Hidden units of the channel-mixing MLPs, at least 1."""
    weights: Text | None = None
    """Weights to start from: imagenet1k, imagenet21k, sam, or a .npz, .safetensors, .keras or .weights.h5 file."""
    resolution_method: Literal["block_diagonal", "bilinear"] = "block_diagonal"
    """How weights made for another image size are fitted: the paper's rule, or stretched (not from the paper)."""
    image_size: Count | tuple[Count, Count] = 224
    """Side of the model's input in pixels, or height and width; at least 1 and a multiple of the patch."""
    dropout_rate: Rate = 0.0
    """Dropout in the MLPs, in [0, 1)."""
    drop_path_rate: Rate = 0.0
    """Stochastic depth of the last MLP, in [0, 1), rising linearly from 0 at the first."""

    epochs: Count = 300
    """Passes over the training data, at least 1; steps, where given, replaces it."""
    steps: Count | None = None
    """Optimizer steps of the whole run, at least 1."""
    global_batch_size: Count = 4096
    """Images in a step, over all devices, at least 1."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy over the classes (softmax), or of each class alone, summed (sigmoid)."""
    class_weights: Literal["balanced"] | ClassWeights | None = None
    """Weight of each class in loss and training accuracy, at least 0, not all 0; balanced: inverse to its frequency."""
    label_smoothing: Rate = 0.0
    """Fraction of the target spread evenly over all classes, in [0, 1); softmax only."""
    head_bias: Annotated[float, ANY] = 0.0
    """Start value of the head's biases, any number; -6.9 and -10 (about -log of the classes) go with sigmoid."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (beta 0.9, 0.999, epsilon 1e-8), or SGD with momentum 0.9."""
    learning_rate: Positive = 1e-3
    """Peak learning rate, greater than 0, reached after the warm-up."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up: to 0 along a cosine, or straight to 1e-5 of the peak."""
    warmup_steps: CountFrom0 = 10_000
    """Steps over which the learning rate rises linearly from 0, at least 0 and fewer than the run has."""
    weight_decay: NonNegative = 0.0
    """Decoupled decay of kernels only, at least 0, times the learning rate (Keras's and the paper's convention)."""
    clip_norm: Positive | None = 1.0
    """Largest global norm of the gradient, greater than 0; None does not clip."""
    ema_momentum: Fraction | None = None
    """Fraction of the running average of the weights that stays at each step, in (0, 1), such as 0.999; the averaged
    weights are validated and kept. None keeps the last ones, as the paper does."""

    crop_area: Annotated[tuple[Area, Area], ASCENDING] = (0.05, 1.0)
    """Smallest and largest fraction of a training image that the random crop covers, in (0, 1] and ascending."""
    crop_aspect: Annotated[tuple[Positive, Positive], ASCENDING] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the random crop, greater than 0 and ascending."""
    flip: bool = True
    """Mirror half of the training images left-right."""
    randaugment_num_ops: CountFrom0 = 0
    """RandAugment operations on each training image, at least 0; 0 for none."""
    randaugment_level: Annotated[float, Range("[0, 20]")] = 0.0
    """Strength of the operations, in [0, 20]; the paper uses 10, 15 and 20."""
    randaugment_operations: Operations | None = None
    """Names of the operations to draw from, one or more; None for the paper's sixteen."""
    randaugment_fill: Annotated[int, Range("[0, 255]")] = 128
    """Grey value, in [0, 255], that appears where an operation moved the image away; the paper's is 128."""
    mixup_alpha: NonNegative = 0.0
    """Beta parameter of mixup, at least 0 (the paper's p, which is not a probability); 0 for none."""
    cutmix_alpha: NonNegative = 0.0
    """Beta parameter of CutMix, at least 0 (not from the paper); 0 for none. With mixup too, each batch gets one of
    the two."""
    shuffle_buffer: Count = 250_000
    """Encoded images (or paths) held in memory for shuffling, at least 1."""
    cache_gib: Annotated[float, Range("[0, 1048576]")] = 0.0
    """Memory, in [0, 1048576] GiB for each process, in which decoded training images stay after their first use, before
    they are cropped and augmented (500 x 375 px: 0.5 MiB each); those that no longer fit are decoded every time."""
    evaluation_crop: EvaluationCrop = "resmall-crop"
    """How test images are brought to size: plain, 256 x 256 then centre, or short side 256 then centre (for 224)."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Number format of the arithmetic; weights and logits stay float32."""
    accumulation_steps: Count = 1
    """Pieces in which the gradient of a batch is computed, one after the other, for less memory; at least 1, and a
    divisor of global_batch_size. One update for all."""
    rematerialize: bool = False
    """Compute each block's insides again for the gradient instead of keeping them: less memory, more time. No gain with
    JAX on CPUs, where XLA keeps them all the same."""
    steps_per_execution: Count = 1
    """Optimizer steps between two visits of Python, at least 1: more is faster where a step is short, as on TPUs."""
    xla_on_cpu: bool = False
    """Compile for one CPU with XLA too: about twice as fast for tiny models, slower for those of Table 1."""
    devices: DeviceChoice = "auto"
    """Where to train: auto, cpu, gpu, tpu, or how many devices of the best kind, from 1."""
    seed: Seed = 0
    """Seed of the initial weights, the order of the data and all augmentation, in [0, 2147483647]."""
    checkpoint_every_steps: Count = 1000
    """Steps between checkpoints, at least 1; the newest two are kept."""

    def __post_init__(self):
        number: object = self.devices
        if isinstance(number, int) and not isinstance(number, bool):  # as config.json has always held it
            object.__setattr__(self, "devices", str(number))
        check_fields(self)
        for field in ("accumulation_steps", "data_shards"):
            if self.global_batch_size % getattr(self, field):
                raise ValueError(
                    f"{field}={getattr(self, field)} must divide global_batch_size={self.global_batch_size}."
                )
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

    def augmentation(self) -> Augmentation:
        """What happens to training images at random."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)})

    def input_shape(self) -> tuple[int, int, int]:
        """`(height, width, 3)` of the model's input in pixels."""
        return (*as_pair(self.image_size), 3)
