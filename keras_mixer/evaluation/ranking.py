"""Which class a model ranks first, and outputs that no ranking should be trusted for.

The highest value comes first, of equal values the one with the lower index, and NaN is not ranked. This is the order of
`np.argsort(-scores, kind="stable")` with NaN left out.
"""

import numpy as np

NO_GUESS = -1


def guesses(scores) -> np.ndarray:
    """`(B, classes) -> (B,) int64`: the class that is ranked first; NO_GUESS where all scores are NaN."""
    highest = np.fmax.reduce(scores, axis=1)  # NaN only where all are
    return np.where(np.isnan(highest), NO_GUESS, (scores == highest[:, None]).argmax(1))


def among_best(scores, labels, count) -> np.ndarray:
    """`(B, classes), (B,) int -> (B,) bool`: whether the label is among the `count` classes ranked first."""
    labels = labels[:, None]
    of_label = np.take_along_axis(scores, labels, axis=1)  # (B, 1)
    before = (scores > of_label) | ((scores == of_label) & (np.arange(scores.shape[1]) < labels))
    return (before.sum(1) < count) & ~np.isnan(of_label[:, 0])


class OutputCheck:
    """Looks through the outputs of an evaluation, batch by batch, for signs that the model is broken.

    Attributes:
        images: images seen.
        non_finite: images with an output that is NaN or infinite.
    """

    def __init__(self):
        self.images = 0
        self.non_finite = 0
        self._first = None
        self._all_equal = True

    @property
    def constant(self) -> bool:
        """Whether there was more than one image, and the same output for all."""
        return self.images > 1 and self._all_equal

    def add(self, outputs):
        """Takes the outputs `(B, classes)` of a batch into account."""
        if self._first is None:
            self._first = outputs[0]
        self.images += len(outputs)
        self.non_finite += int((~np.isfinite(outputs)).any(1).sum())
        self._all_equal = self._all_equal and bool((outputs == self._first).all())


def describe_outputs(images, non_finite, constant) -> list[str]:
    """What a reader of an accuracy should know about the outputs behind it, one sentence each; mostly nothing."""
    sentences = []
    if non_finite:
        sentences.append(
            f"{non_finite:,} of {images:,} images have outputs that are not finite (NaN or infinity); NaN never counts "
            "as correct."
        )
    if constant:
        sentences.append(f"All {images:,} images have the same output: the model is untrained.")
    return sentences
