"""A training run as plain data: everything that determines its result. The types of settings, checked by pydantic."""

import contextlib
import dataclasses
import itertools
import math
import re
from typing import Annotated, Any, Literal, dataclass_transform, get_args

import pydantic
from pydantic import AfterValidator, ConfigDict, Field

from keras_mixer.variants import KNOWN_VARIANTS, Variant, as_pair

XLA_BELOW_MACS = 10**9  # of a step's forward pass, on a CPU; see docs/performance.md
LARGEST = 3.4028234663852886e38  # of float32, the type of the model's arithmetic
CONFIG = ConfigDict(allow_inf_nan=False, extra="forbid")

EvaluationCrop = Literal[  # how an image of any size becomes one of the model's input size
    "resize",  # to the input size, ignoring the aspect ratio (vit_jax's evaluation)
    "resize-crop",  # to 8/7 of the input size (256 for 224 px), then central crop (Table 2)
    "resmall-crop",  # the short side to 8/7 of the input side (256 for 224 px), then central crop (Table 3)
]
EVALUATION_CROPS = get_args(EvaluationCrop)
RANDAUGMENT_OPERATIONS = (  # source: appendix B of arXiv 2105.01601, all sixteen
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"),
)


def must_be(description, predicate) -> AfterValidator:
    """A condition for values of the right type."""

    def checked(value):
        if not predicate(value):
            raise ValueError(f"should be {description}")
        return value

    return AfterValidator(checked)


Count = Annotated[int, Field(ge=1)]
CountFrom0 = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]
NOT_EMPTY = must_be("one value or more", bool)
ASCENDING = must_be("ascending", lambda values: list(values) == sorted(values))
Text = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, must_be("a file name", re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]+").fullmatch)]
Operation = Annotated[str, must_be(f"one of {', '.join(RANDAUGMENT_OPERATIONS)}", RANDAUGMENT_OPERATIONS.__contains__)]
ClassWeights = Annotated[tuple[NonNegative, ...], must_be("numbers of which one or more are above 0", any)]


@contextlib.contextmanager
def _in_words(name=None):
    """Turns pydantic's error into a ValueError: for each wrong value its name, what it must be, and what it is."""
    try:
        yield
    except pydantic.ValidationError as error:
        lines = []
        for place, errors in itertools.groupby(error.errors(), lambda one: name or next(iter(one["loc"]), None)):
            of_place = list(errors)  # of a union, one for each form
            words = (re.sub(r"^(\w+ )?should ", "must ", one["msg"].removeprefix("Value error, ")) for one in of_place)
            line = " or ".join(words).replace(" or must ", " or ")
            lines.append(f"{place} {line}, got {of_place[0]['input']!r:.200}." if place else line)
        raise ValueError("\n".join(lines)) from None


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(cls: type) -> Any:
    """A frozen dataclass whose values are checked; a ValueError names each wrong one. NumPy scalars are taken."""
    checked = pydantic.dataclasses.dataclass(frozen=True, config=CONFIG)(cls)
    checked.__init__ = _in_words()(checked.__init__)  # type: ignore[method-assign]
    return checked


def check(name, value, wanted):
    """The value, if it is of a type; otherwise a ValueError that says what it must be."""
    with _in_words(name):
        return pydantic.TypeAdapter(wanted, config=CONFIG).validate_python(value)


@settings
class Recipe:
    """A training run as data. Every field is an option of `keras-mixer train`."""

    name: FileName
    """Name of the recipe, usable as a file name; the default run directory is runs/NAME."""

    data: Text
    """"digits", the path of an image folder or a folder of IDX files, or a TensorFlow Datasets name such as cifar10."""
    data_dir: Text | None = None
    """Folder of prepared TensorFlow Datasets, local or gs://; the default is that of tensorflow_datasets."""
    train_split: Text = "train"
    """Training split: a TFDS split such as 'train[:99%]', or a sub-folder of an image folder."""
    test_split: Text = "test"
    """Test split, in the same form."""
    label: Text = "label"
    """The feature of a TensorFlow Dataset that is to be predicted, such as coarse_label of cifar100."""
    holdout: Rate = 0.0
    """Fraction of the training images held out and used in place of the test images, in [0, 1), to choose settings."""
    data_shards: Count = 1
    """Shards of the training data, at least 1: a multiple of the processes, and a divisor of global_batch_size."""
    test_fraction: Fraction = 0.2
    """Fraction of each class used for testing, in (0, 1), where there is no test split: digits, some image folders."""
    split_seed: CountFrom0 = 0
    """Seed that chooses those test images, at least 0."""

    variant: Annotated[str, must_be(f"one of {', '.join(KNOWN_VARIANTS)}", KNOWN_VARIANTS.__contains__)] = "B/16"
    """Row of Table 1, such as B/16, or tiny/4 for 16 px images; the five sizes below override those of the variant."""
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
    """Weights to start from: imagenet1k, imagenet21k, sam, gsam, miil, miil_in21k, a run directory, or a .npz,
    .safetensors, .keras or .weights.h5 file, also hf://owner/name/file."""
    resolution_method: Literal["block_diagonal", "bilinear"] = "block_diagonal"
    """How weights of another image size are adapted: the paper's rule, or bilinearly (not from the paper)."""
    image_size: Count | tuple[Count, Count] = 224
    """Side of the model's input in pixels, or height and width; at least 1 and a multiple of the patch size."""
    dropout_rate: Rate = 0.0
    """Dropout in the MLPs, in [0, 1)."""
    drop_path_rate: Rate = 0.0
    """Stochastic depth rate of the last MLP, in [0, 1); the rate rises linearly from 0 at the first MLP."""

    epochs: Count = 300
    """Number of epochs, at least 1; not used if steps is set."""
    steps: Count | None = None
    """Optimizer steps of the whole run, at least 1."""
    steps_per_epoch: Count | None = None
    """Optimizer steps between validations, at least 1; None: one pass over the training images."""
    global_batch_size: Count = 4096
    """Images per optimizer step, over all devices, at least 1."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Softmax cross-entropy, or sigmoid cross-entropy summed over the classes."""
    teacher: Text | None = None
    """Distillation (arXiv 2106.05237): a .keras file or a finished run whose outputs replace the labels in the loss."""
    teacher_temperature: Positive = 1.0
    """Temperature t of both softmax distributions, greater than 0; the loss is t^2 KL(teacher || student)."""
    class_weights: Literal["balanced"] | ClassWeights | None = None
    """Weight of each class in loss and training accuracy, at least 0, not all 0; balanced: inverse class frequency."""
    label_smoothing: Rate = 0.0
    """Label smoothing, in [0, 1): fraction of the target spread evenly over all classes; softmax only."""
    head_bias: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] = 0.0
    """Initial bias of the head, any number; -6.9 and -10 (about -log of the classes) are used with sigmoid."""
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """AdamW, Muon for the matrices of the blocks and AdamW for the rest (not in the paper), or SGD, momentum 0.9."""
    learning_rate: Positive = 1e-3
    """Peak learning rate, greater than 0, reached at the end of the warm-up."""
    schedule: Literal["cosine", "linear", "staircase"] = "cosine"
    """Decay after the warm-up: cosine to 0, linear to 1e-5 of the peak; staircase: divided by 10 at 40, 60, 80 %."""
    warmup_steps: CountFrom0 = 10_000
    """Steps over which the learning rate rises linearly from 0, at least 0 and fewer than the steps of the run."""
    fit_small_data: bool = False
    """If the training images do not fill four batches, lower global_batch_size and warmup_steps to suit them."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of kernels, at least 0; multiplied by the learning rate, as in Keras and the paper."""
    clip_norm: Positive | None = 1.0
    """Maximum global norm of the gradient, greater than 0; None: no clipping."""
    sam_rho: NonNegative = 0.0
    """Radius of sharpness-aware minimization (arXiv 2010.01412), at least 0, such as 0.05: two passes a step."""
    ema_momentum: Fraction | None = None
    """Momentum, in (0, 1), such as 0.999, of an average of the weights that is validated and saved; None: off."""
    freeze_epochs: CountFrom0 | Literal["all"] = 0
    """Epochs at the start in which only the head learns, at least 0; all: the whole run."""
    keep: Literal["last", "best"] = "last"
    """The model that is saved: that of the last epoch, or of the one with the best validation accuracy. Choose on
    images held out of training (holdout): on test images the accuracy of the best is too high."""
    patience: Count | None = None
    """Stop after so many epochs without a better validation accuracy, at least 1, after freeze_epochs; None: never."""

    crop_area: Annotated[tuple[Area, Area], ASCENDING] = (0.05, 1.0)
    """Smallest and largest fraction of a training image covered by the random crop, in (0, 1] and ascending."""
    crop_aspect: Annotated[tuple[Positive, Positive], ASCENDING] | None = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the random crop, greater than 0 and ascending; None: that of the image."""
    flip: bool = True
    """Flip half of the training images horizontally."""
    randaugment_num_ops: CountFrom0 = 0
    """RandAugment operations per training image, at least 0; 0: no RandAugment."""
    randaugment_level: Annotated[float, Field(ge=0, le=20)] = 0.0
    """RandAugment magnitude, in [0, 20]; the paper uses 10, 15 and 20."""
    randaugment_operations: Annotated[tuple[Operation, ...], NOT_EMPTY] | None = None
    """Names of the RandAugment operations to draw from, one or more; None: the paper's sixteen."""
    randaugment_fill: Annotated[int, Field(ge=0, le=255)] = 128
    """Gray value, in [0, 255], that fills areas an operation moved out of the image; the paper's is 128."""
    mixup_alpha: NonNegative = 0.0
    """Beta parameter of mixup, at least 0 (the paper's p, which is not a probability); 0: no mixup."""
    cutmix_alpha: NonNegative = 0.0
    """Beta parameter of CutMix, at least 0 (not from the paper); 0: off. With mixup, each batch gets one of the two."""
    shuffle_buffer: Count = 250_000
    """Size of the shuffle buffer in images, at least 1, for data that are read in order: TFDS, tf.data, with cache."""
    cache: bool = False
    """Keep decoded training images in memory, 3 bytes per pixel; for files, and arrays of encoded images."""
    evaluation_crop: EvaluationCrop = "resmall-crop"
    """For 224 px: resize to 224 x 224, to 256 x 256 and crop, or the short side to 256 and crop."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Compute dtype; weights and logits stay float32."""
    accumulation_steps: Count = 1
    """Micro-batches accumulated into one update, to save memory; at least 1, and a divisor of global_batch_size."""
    rematerialize: bool = False
    """Recompute each block in the backward pass: less memory, more time. No gain with JAX on CPUs."""
    rematerialize_tokens: bool = False
    """Recompute only the token-mixing MLPs: about 2 % more FLOPs, and a quarter less memory for activations."""
    xla_on_cpu: Literal["auto"] | bool = "auto"
    """Compile with XLA on a single CPU too: faster for tiny models, slower for those of Table 1. auto: if a step takes
    less than 10^9 multiply-accumulates in the forward pass."""
    devices: Literal["auto", "cpu", "gpu", "tpu"] | Count = "auto"
    """Devices to train on: auto, cpu, gpu, tpu, or the number of devices of the best kind, from 1."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # int32 for tf.random; np.random accepts no negative seed
    """Seed of the initial weights, the data order and all augmentation, in [0, 2147483647]."""
    checkpoint_every_steps: Count = 1000
    """Steps between checkpoints, at least 1; there is one every ten minutes at least, and the newest two are kept."""

    def __post_init__(self):
        for field in ("accumulation_steps", "data_shards"):
            if self.global_batch_size % (parts := getattr(self, field)):
                raise ValueError(f"{field}={parts} must divide global_batch_size={self.global_batch_size}.")
        for field in ("label_smoothing", "teacher"):
            if getattr(self, field) and self.loss == "sigmoid":
                raise ValueError(f"{field} works only with loss 'softmax'. Change the loss, or leave out {field}.")
        if self.randaugment_num_ops and not self.randaugment_level:  # which would make images black
            raise ValueError("randaugment_num_ops needs randaugment_level. Set it, for example to 10.")
        if (self.rematerialize or self.rematerialize_tokens) and self.dropout_rate:
            reason = "rematerialize would draw different dropout masks when it recomputes a block"
            raise ValueError(f"{reason}. Set dropout_rate to 0 or turn off rematerialize.")
        if self.freeze_epochs and self.ema_momentum:
            raise ValueError("freeze_epochs has no moving average of what is frozen. Turn off ema_momentum.")

    def architecture(self) -> Variant:
        """The five sizes of the model."""
        fields = [field.name for field in dataclasses.fields(Variant)]
        given = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return dataclasses.replace(KNOWN_VARIANTS[self.variant], **given)

    def input_shape(self) -> tuple[int, int, int]:
        """`(height, width, 3)` of the model's input in pixels."""
        return (*as_pair(self.image_size), 3)

    def compiles_on_cpu(self) -> bool:
        """Whether a single CPU compiles the training step of this architecture with XLA."""
        if self.xla_on_cpu == "auto":
            return self.global_batch_size * self.architecture().macs(self.input_shape(), 0) < XLA_BELOW_MACS
        return self.xla_on_cpu

    def data_splits(self) -> dict[str, Any]:
        """The arguments of `load_source` that choose labels, and separate training images from test images."""
        names = ("train_split", "test_split", "test_fraction", "split_seed", "label")
        return {name: getattr(self, name) for name in names}

    def part(self) -> Literal["test", "held-out"]:
        """What the accuracy is measured on: test images, or images held out of the training split."""
        of_training = self.test_split.split("[")[0] == self.train_split.split("[")[0]
        return "held-out" if self.holdout or of_training else "test"

    def for_images(self, count) -> "Recipe":
        """The recipe with its steps on so many images; `fit_small_data` lowers the batch. ValueError for too few."""
        batch, warmup = self.global_batch_size, self.warmup_steps
        few = self.fit_small_data and count < 4 * batch
        if few:
            unit = self.accumulation_steps * self.data_shards
            batch = min(batch, unit * 2 ** int(math.log2(max(count // 4 // unit, 1))))
        if batch > count and not self.steps_per_epoch:
            found = f"global_batch_size={batch} is more than the {count} training images"
            raise ValueError(f"{found}; lower --global-batch-size.")
        epoch = self.steps_per_epoch or count // batch
        steps = self.steps or epoch * self.epochs
        if few:
            warmup = min(warmup, steps // 10)
        return dataclasses.replace(
            self, global_batch_size=batch, warmup_steps=warmup, steps_per_epoch=epoch, steps=steps
        )

    @property
    def frozen_steps(self) -> int:
        """Optimizer steps at the start in which only the head learns, of a recipe `for_images`."""
        steps, epoch = self.steps or 0, self.steps_per_epoch or 0
        return steps if self.freeze_epochs == "all" else min(self.freeze_epochs * epoch, steps)
