"""What a model gives for a batch of any size, on any number of devices."""

import keras
import numpy as np


def predict_batch(model, images):
    """`(B, ...) -> (B, ...)`: the model's output, or dict of outputs, as NumPy arrays, one row for each image.

    Under `tf.distribute`, Keras's `predict_on_batch` has every replica compute the whole batch and returns all their
    copies behind one another; the first is kept.
    """
    outputs = model.predict_on_batch(np.asarray(images))
    return keras.tree.map_structure(lambda output: np.asarray(output)[: len(images)], outputs)
