"""Input: source -> decode -> augment -> batches, all in `tf.data` on both Keras backends."""
