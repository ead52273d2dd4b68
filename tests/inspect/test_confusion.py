import numpy as np

from keras_mixer.inspect.confusion import confusion_figure, mistakes
from keras_mixer.inspect.figures import write_figure

CONFUSION = np.array([[5, 0, 3], [1, 0, 0], [0, 2, 8]])


def test_mistakes_are_listed_most_frequent_first_and_every_count_is_drawn_at_its_place(tmp_path):
    assert mistakes(CONFUSION, "abc") == [("a", "c", 3, 3 / 8), ("c", "b", 2, 0.2), ("b", "a", 1, 1.0)]
    figure = confusion_figure(CONFUSION, "abc")
    ax = figure.axes[0]
    written = {(text.get_position()[::-1]): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "5", (0, 2): "3", (1, 0): "1", (2, 1): "2", (2, 2): "8"}
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array())[2] ** 2, [0, 0.2, 0.8])
    assert write_figure(figure, tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in write_figure(figure, tmp_path / "a.svg").read_bytes()
