"""Types and choices of settings, checked by pydantic: in Python, in files, on the command line; without TensorFlow."""

import contextlib
import itertools
import re
from typing import Annotated, Any, Literal, dataclass_transform, get_args

import pydantic
from pydantic import AfterValidator, ConfigDict, Field

LARGEST = 3.4028234663852886e38  # of float32, the type of the model's arithmetic
CONFIG = ConfigDict(allow_inf_nan=False, extra="forbid")


def must_be(description, predicate) -> AfterValidator:
    """A condition for values of the right type."""

    def checked(value):
        if not predicate(value):
            raise ValueError(f"should be {description}")
        return value

    return AfterValidator(checked)


Count = Annotated[int, Field(ge=1)]
CountFrom0 = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]  # int32 for tf.random; np.random accepts no negative seed
TEXT = re.compile(r"(?s)(?=.*\S)[^\0\ud800-\udfff]+")  # surrogates stand for bytes that are not UTF-8
Text = Annotated[str, must_be("a non-empty string in UTF-8", TEXT.fullmatch)]
ASCENDING = must_be("ascending", lambda values: list(values) == sorted(values))
NOT_EMPTY = must_be("one value or more", bool)

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
