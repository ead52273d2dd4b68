import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.evaluation.outputs import write_features

pytestmark = pytest.mark.backends


@pytest.fixture
def data(rng):
    images, labels = rng.integers(0, 256, (11, 16, 24, 3), dtype=np.uint8), rng.integers(0, 3, 11)
    return images, labels, [(images[i : i + 4], labels[i : i + 4]) for i in range(0, 11, 4)]


@pytest.mark.parametrize("layer", ["pre_logits", "block_1", "stem"])
def test_the_file_holds_the_features_of_every_image_in_order(tiny_mixer, data, tmp_path, layer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    images, labels, batches = data
    write_features(model, batches, tmp_path / "f.npz", layer=layer, class_names=("a", "b", "c"))
    expected = keras.ops.convert_to_numpy(keras_mixer.feature_extractor(model, [layer])(images)[layer])
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["features"], expected, atol=1e-5)
        np.testing.assert_array_equal(file["labels"], labels)
        assert file["class_names"].tolist() == ["a", "b", "c"]
    assert [item.name for item in tmp_path.iterdir()] == ["f.npz"]


def test_mistakes_leave_no_file(tiny_mixer, data, tmp_path):
    model = tiny_mixer(input_shape=(16, 24, 3))
    with pytest.raises(ValueError, match="no images to compute features"):
        write_features(model, [], tmp_path / "f.npz")
    with pytest.raises(ValueError, match=r"Unknown features \['block_9'\].*block_0/token_mixing"):
        write_features(model, data[2], tmp_path / "f.npz", layer="block_9")
    assert not list(tmp_path.iterdir())
    (tmp_path / "f.npz").write_bytes(b"precious")
    with pytest.raises(ValueError, match="not overwritten"):
        write_features(model, data[2], tmp_path / "f.npz")
