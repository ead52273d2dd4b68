"""Sees that the fields of a dataclass hold what their annotations say: recipes come from files and from keywords."""

import dataclasses
import sys
import types
import typing


def check_fields(record):
    """Raises ValueError where a field holds another type than it is annotated with, or a number that is not finite.

    An integer will do where a float is expected; a list will not do for a tuple.
    """
    expected = typing.get_type_hints(type(record))
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if not _fits(value, expected[field.name]):
            wanted = getattr(expected[field.name], "__name__", None) if isinstance(expected[field.name], type) else None
            wanted = wanted or str(expected[field.name]).replace("typing.", "")
            raise ValueError(f"{field.name} must be {wanted}, not {value!r:.200}.")


def _fits(value, wanted):
    kind, inside = typing.get_origin(wanted), typing.get_args(wanted)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if kind is typing.Literal:
        return isinstance(value, str) and value in inside
    if kind is tuple:
        if not isinstance(value, tuple):
            return False
        each = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return len(value) == len(each) and all(map(_fits, value, each))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)
