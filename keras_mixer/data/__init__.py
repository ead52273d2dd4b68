"""Input: source -> preprocessing -> augment -> batches, all in `tf.data` on both Keras backends."""
