"""One door for all weight files: `load_weights(model, source)`."""

from pathlib import Path


def load_weights(model, source):
    """Loads the weights of a file into a model, all or nothing.

    Args:
        model: a built Mixer with the shapes of the file.
        source: path of a `.weights.h5` or `.keras` file of this package.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a known kind of file, or the shapes differ.

    Source: ours.
    """
    path = Path(source)
    if not path.name.endswith((".weights.h5", ".keras")):
        raise ValueError(f"weights={str(source)!r} is none of the known sources: a .weights.h5 or .keras file.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    model.load_weights(path)
    return model
