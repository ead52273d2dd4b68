"""Validation of fields by their annotation: a type and, if needed, a range or another condition.

`rate: Annotated[float, Range("[0, 1)")]` is a number from 0 (included) to 1 (excluded). The same annotation validates
keyword arguments, files and command-line options, and provides the error message.
"""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

LARGEST = 3.4028234663852886e38  # of float32, the type of the model's arithmetic


class Range:
    """Numbers in an interval.

    Attributes:
        low: lower end.
        high: upper end.
        includes_low: whether the lower end is in the interval.
        includes_high: whether the upper end is.
        words: text after "must be" in an error message.

    Args:
        interval: such as "[0, 1)" or "(0, inf)"; square brackets include an end and round ones exclude it.

    Source: ours.
    """

    def __init__(self, interval: str):
        low, high = interval[1:-1].split(", ")
        self.low, self.high = float(low), float(high)
        self.includes_low, self.includes_high = interval[0] == "[", interval[-1] == "]"
        self.words = f"in {interval}"
        if high == "inf":
            self.words = f"at least {low}" if self.includes_low else f"greater than {low}"

    def holds(self, value):
        """Whether a number is in the interval."""
        above = value >= self.low if self.includes_low else value > self.low
        return above and (value <= self.high if self.includes_high else value < self.high)


@dataclasses.dataclass(frozen=True)
class Where:
    """Values that meet a condition.

    Attributes:
        words: text after "must be" in an error message.
        holds: whether a value of the right type meets the condition.
    """

    words: str
    holds: Callable[[Any], object]


def one_of(choices):
    """A condition for values from a fixed list."""
    return Where(f"one of {', '.join(choices)}", lambda value: value in choices)


ANY = Where("anything", lambda value: True)  # marks a field that needs no condition
ASCENDING = Where("ascending", lambda values: list(values) == sorted(values))
SOME = Where("one value or more", bool)

Count = Annotated[int, Range("[1, inf)")]
CountFrom0 = Annotated[int, Range("[0, inf)")]
NonNegative = Annotated[float, Range("[0, inf)")]
Positive = Annotated[float, Range("(0, inf)")]
Fraction = Annotated[float, Range("(0, 1)")]
Rate = Annotated[float, Range("[0, 1)")]
Seed = Annotated[int, Range("[0, 2147483647]")]  # int32 for tf.random; np.random accepts no negative seed
Text = Annotated[str, Where("a non-empty string", lambda text: text.strip() and "\0" not in text)]


def check_fields(record):
    """Checks every field of a dataclass against its annotation.

    An integer is accepted where a float is expected; a list is not accepted for a tuple.

    Raises:
        ValueError: a field is invalid; the message names the first one, what it must be, and its value.
    """
    for name, wanted in typing.get_type_hints(type(record), include_extras=True).items():
        check(name, getattr(record, name), wanted)


def check(name, value, wanted):
    """Checks one value against an annotation.

    Raises:
        ValueError: the value is invalid; the message says what it must be.
    """
    expected = _expected(value, wanted)
    if expected:
        raise ValueError(f"{name} must be {expected}, got {value!r:.200}.")


def differences(stored, now) -> str:
    """Lists the settings that differ between two dictionaries, such as "seed: 0 there, 1 now"; empty if none does."""
    changed = [name for name in sorted(stored | now) if stored.get(name) != now.get(name)]
    return "; ".join(f"{name}: {stored.get(name)!r} there, {now.get(name)!r} now" for name in changed)


def _expected(value, wanted) -> str | None:
    """What a value must be, in words; None if it is valid."""
    kind, inside = typing.get_origin(wanted), typing.get_args(wanted)
    if kind is Annotated:
        conditions = [one for one in inside[1:] if isinstance(one, Range | Where)]  # not tyro's annotations
        return _expected(value, inside[0]) or next((one.words for one in conditions if not one.holds(value)), None)
    if kind in (typing.Union, types.UnionType):
        alternatives = [_expected(value, one) for one in inside]
        return None if None in alternatives else _either(alternatives)
    if kind is typing.Literal:
        return None if isinstance(value, str) and value in inside else _either(map(repr, inside))
    if kind is tuple:
        return _expected_tuple(value, inside)
    if wanted is float:
        valid = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
        return None if valid else "a finite number"
    if wanted is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else "an integer"
    names = {bool: "True or False", str: "a string", type(None): "None"}
    return None if isinstance(value, wanted) else names.get(wanted, wanted.__name__)


def _expected_tuple(value, inside):
    any_length = inside[-1] is Ellipsis
    each = inside[:1] * len(value) if any_length and isinstance(value, tuple) else inside
    if not isinstance(value, tuple) or len(value) != len(each):
        return "a tuple" if any_length else f"a tuple of {len(inside)} values"
    expected = next(filter(None, map(_expected, value, each)), None)
    return expected and f"a tuple with every value {expected}"


def _either(alternatives):
    *others, last = alternatives
    return f"{', '.join(others)} or {last}" if others else last
