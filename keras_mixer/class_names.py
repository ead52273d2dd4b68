"""Names of classes, checked where they enter: by data, by a call, or by a model."""

import numbers
from collections.abc import Iterable, Mapping, Set

from keras_mixer.imagenet_classes import SUBSETS, imagenet_classes


def checked_class_names(names) -> tuple[str, ...]:
    """One name per class, each a line of text: numbers become text, and white space becomes single blanks.

    Raises:
        ValueError: a name is neither text nor a whole number, is empty, or is that of two classes; only ImageNet's own
            names may repeat.
    """
    if isinstance(names, str | bytes | Mapping | Set) or not isinstance(names, Iterable):
        raise ValueError(f"class_names must be a list of names in label order, got {names!r:.100}.")
    names = tuple(names)
    for label, name in enumerate(names):
        if not isinstance(name, str | numbers.Integral) or not str(name).strip():
            raise ValueError(f"class_names must be text, got {name!r:.100} for class {label}.")
    checked = tuple(" ".join(str(name).split()) for name in names)
    labels: dict[str, int] = {}
    for label, name in enumerate(checked):
        if labels.setdefault(name, label) != label and not _is_imagenet(checked):
            raise ValueError(f"class_names must differ, got {name!r} for the classes {labels[name]} and {label}.")
    return checked


def _is_imagenet(names):
    """Whether these are ImageNet's names; of its classes two are named "crane", a bird and a machine."""
    return len(names) in SUBSETS and names == tuple(name for _, name in imagenet_classes(len(names)))
