"""TensorBoard images: augmented training images and token-mixing weights."""

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.anatomy import anatomy

MAX_UNITS = 64  # hidden units shown per block
SMALLEST_TILE = 32  # pixels; smaller images are enlarged by an integer factor
WEIGHT_IMAGES = 10  # per run, evenly spaced


class TensorBoardImages(keras.callbacks.Callback):
    """Writes a grid of augmented training images once, and token-mixing weights about ten times per run.

    The weights are those of the first Dense layer of a token-mixing MLP. Each hidden unit is shown on the token grid,
    as in Figure 5 of the paper, but unsorted and each scaled to its own range.

    Args:
        folder: folder of the event files.
        images: returns `(N, h, w, 3)` pixels in [0, 255], as the model sees them in training; called after the first
            step, which then does not wait for them. None writes none.
        start_step: optimizer steps before this call of `fit`.
        total_steps: optimizer steps of the whole run.
    """

    def __init__(self, folder, images, start_step, total_steps):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder))
        self.images = images
        self.start_step = start_step
        self.every_steps = max(total_steps // WEIGHT_IMAGES, 1)
        self.last = None

    def on_train_begin(self, logs=None):
        if self.last is None:
            self._write_weights(self.start_step)

    def on_train_batch_end(self, batch, logs=None):
        if self.images is not None:
            with self.writer.as_default(self.start_step):
                tf.summary.image("training images, augmented", tile(self.images())[None])
            self.images = None

    def on_epoch_end(self, epoch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        if step // self.every_steps > self.last // self.every_steps:
            self._write_weights(step)

    def _write_weights(self, step):
        parts = anatomy(self.model)
        blocks = parts.blocks
        with self.writer.as_default(step):
            for i in sorted({0, len(blocks) // 2, len(blocks) - 1}):
                kernel = blocks[i].token_mixing.dense_0.kernel.numpy()  # (S, D_S)
                units = kernel.T.reshape(-1, *parts.grid, 1)[:MAX_UNITS]  # (units, g_h, g_w, 1)
                largest = np.abs(units).max((1, 2, 3), keepdims=True)
                image = tile(127.5 + 127.5 * units / np.maximum(largest, 1e-12))
                tf.summary.image(f"token mixing, block {i}", image[None])
        self.writer.flush()
        self.last = step


def tile(images) -> np.ndarray:
    """`(N, h, w, channels) in [0, 255] -> (H, W, channels) uint8`: arranges images in a grid and enlarges tiny ones."""
    images = np.asarray(images).clip(0, 255).astype(np.uint8)
    factor = -(-SMALLEST_TILE // min(images.shape[1:3]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    images = np.pad(images, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)  # a white line between images
    columns = int(np.ceil(len(images) ** 0.5))
    missing = -len(images) % columns
    images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    rows = images.reshape(-1, columns, *images.shape[1:])  # (rows, columns, h, w, channels)
    height, width = len(rows) * images.shape[1], columns * images.shape[2]
    return rows.transpose(0, 2, 1, 3, 4).reshape(height, width, -1)
