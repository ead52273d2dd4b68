import numpy as np
import pytest

from keras_mixer.inspect.confusion import confusion_figure, mistakes
from keras_mixer.inspect.figures import check_figure_path, write_figure

CONFUSION = np.array([[5, 0, 3], [1, 0, 0], [0, 2, 8]])


def test_mistakes_are_listed_most_frequent_first():
    assert mistakes(CONFUSION, "abc") == [("a", "c", 3, 3 / 8), ("c", "b", 2, 0.2), ("b", "a", 1, 1.0)]
    assert mistakes(CONFUSION, "abc", count=1) == [("a", "c", 3, 3 / 8)]
    assert CONFUSION[0, 0] == 5


def test_the_picture_shows_every_count_at_its_place():
    (ax, *_) = confusion_figure(CONFUSION, "abc").axes
    written = {(text.get_position()[::-1]): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "5", (0, 2): "3", (1, 0): "1", (2, 1): "2", (2, 2): "8"}
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array())[2] ** 2, [0, 0.2, 0.8])


def test_pictures_are_the_same_file_each_time_and_have_known_endings(tmp_path):
    for name in ("a.svg", "b.svg", "c.png"):
        write_figure(confusion_figure(np.eye(70, dtype=int), [f"class {i}" for i in range(70)]), tmp_path / name)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    with pytest.raises(ValueError, match=r"ending in \.png or \.svg, got"):
        write_figure(confusion_figure(CONFUSION, "abc"), tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="not overwritten"):
        check_figure_path(tmp_path / "c.png")
