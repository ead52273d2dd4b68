"""Which classes a model takes for which: a picture of the confusion matrix, and its largest entries."""

import numpy as np

from keras_mixer.inspect.figures import canvas

MOST_NUMBERS = 20  # classes up to which every field carries its number
MOST_NAMES = 60  # classes up to which the axes carry names


def mistakes(confusion, class_names, count=10):
    """The most frequent mistakes.

    Args:
        confusion: `(K, K)` numbers of images; rows are labels, columns the guesses.
        class_names: K names.
        count: how many mistakes to give at most.

    Returns:
        `(label, guess, images, share of the label's images)`, the most frequent first.
    """
    wrong = np.array(confusion)
    totals = wrong.sum(1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(wrong)) for place in order]
    return [
        (class_names[label], class_names[guess], int(wrong[label, guess]), float(wrong[label, guess] / totals[label]))
        for label, guess in pairs
        if wrong[label, guess]
    ]


def confusion_figure(confusion, class_names):
    """A picture of the matrix: each row shows how the images of one class were judged, as shares of the row.

    Args:
        confusion: `(K, K)` numbers of images; rows are labels, columns the guesses.
        class_names: K names.
    """
    confusion = np.asarray(confusion)
    classes = len(confusion)
    images = confusion.sum()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = float(np.clip(1.6 + 0.42 * classes, 4.0, 12.0))
    figure, ax = canvas(side + 0.6, side)
    picture = ax.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1)  # the root lifts rare mistakes into sight
    ax.spines[:].set_visible(False)
    ax.set(xlabel="guess", ylabel="label", title=f"{np.trace(confusion) / max(images, 1):.2%} of {images:,}")
    if classes <= MOST_NAMES:
        turn = 90 if max(map(len, class_names)) > 3 else 0
        ax.set_xticks(range(classes), class_names, rotation=turn)
        ax.set_yticks(range(classes), class_names)
    if classes <= MOST_NUMBERS:
        for label, guess in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[label, guess] > 0.3 else "black"
            ax.text(guess, label, str(confusion[label, guess]), ha="center", va="center", color=colour, fontsize=9)
    bar = figure.colorbar(picture, ax=ax, shrink=0.7)
    bar.set_ticks([0, 0.1**0.5, 0.5**0.5, 1], labels=["0 %", "10 %", "50 %", "100 %"])
    bar.set_label("share of the label's images")
    return figure
