import numpy as np
import pytest
from image_files import write_folder

from keras_mixer.data.batches import training_batches
from keras_mixer.data.sources import load_source
from keras_mixer.paper.subsets import draw, with_training_images
from keras_mixer.training.recipe import Recipe


def test_every_class_gives_as_many_as_any_other_and_more_images_keep_the_fewer(rng):
    labels = rng.permutation(np.repeat([0, 1, 2], [40, 30, 4]))
    few, many = draw(labels, 9), draw(labels, 30)
    assert np.bincount(labels[few]).tolist() == [3, 3, 3]
    assert np.bincount(labels[many]).tolist() == [13, 13, 4]
    assert set(few) < set(many)
    assert len(draw(labels, 74)) == len(set(draw(labels, 74))) == 74


def test_a_source_keeps_its_test_images_and_trains_on_the_drawn_ones(tmp_path):
    source = load_source(str(write_folder(tmp_path, images_per_class=8)))
    part = with_training_images(source, 6)
    assert part.test is source.test
    assert part.train.size == len(part.train.files) == int(part.train.elements.cardinality()) == 6
    assert np.bincount(part.train.labels()).tolist() == [3, 3]
    images, _ = next(
        iter(training_batches(part.train, Recipe("few", data="pictures", image_size=8, global_batch_size=12)))
    )
    assert images.shape == (12, 8, 8, 3)
    with pytest.raises(ValueError, match="has 16 training images; 17 cannot be taken"):
        with_training_images(source, 17)
