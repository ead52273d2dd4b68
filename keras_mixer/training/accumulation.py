"""The gradient of a large batch in pieces, one after the other, on both engines."""

import keras


class AccumulatingModel(keras.Model):
    """A functional model whose training step holds the activations of one piece of the batch at a time.

    The update is that of the whole batch: gradients of the pieces are averaged, then clipped and applied once. Keras's
    own `gradient_accumulation_steps` takes whole batches for pieces, which bends schedules, and fails under
    MirroredStrategy.

    Attributes:
        pieces: how many; must divide the batch of a device.
    """

    pieces = 1

    def train_step(self, *arguments):
        """One step on one batch; the engines hand over different things, see Keras's guides to custom training."""
        if keras.backend.backend() == "jax":
            return self._jax_step(*arguments)
        return self._tensorflow_step(*arguments)

    def _cut(self, tensor):
        """`(B, ...) -> (B / pieces, pieces, ...)`: every piece has rows of all devices that share the batch."""
        return None if tensor is None else keras.ops.reshape(tensor, (-1, self.pieces, *tensor.shape[1:]))

    def _tensorflow_step(self, data):
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        cut = [self._cut(tensor) for tensor in (x, y, sample_weight)]
        weights = self.trainable_weights
        gradients, loss, outputs = [tf.zeros(weight.shape) for weight in weights], 0.0, []
        for i in range(self.pieces):
            piece = [None if tensor is None else tensor[:, i] for tensor in cut]
            with tf.control_dependencies(gradients):  # one after the other, or all would be in memory at once
                piece[0] = tf.identity(piece[0])
            with tf.GradientTape() as tape:
                outputs.append(self(piece[0], training=True))
                share = self.compute_loss(piece[0], piece[1], outputs[-1], piece[2], training=True) / self.pieces
            gradients = [total + new for total, new in zip(gradients, tape.gradient(share, weights), strict=True)]
            loss += share
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self._loss_tracker.update_state(
            loss * self.distribute_strategy.num_replicas_in_sync
        )  # a share, as Keras has it
        return self.compute_metrics(x, y, tf.reshape(tf.stack(outputs, axis=1), tf.shape(y)), sample_weight)

    def _jax_step(self, state, data):
        import jax

        trainable, non_trainable, optimizer_variables, metrics_variables = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        gradient = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)

        def one_piece(carried, piece):
            gradients, loss, non_trainable = carried
            (_, (new_loss, output, non_trainable, _)), new = gradient(
                trainable,
                non_trainable,
                metrics_variables,
                *piece,
                training=True,
                optimizer_variables=optimizer_variables,
            )
            gradients = [total + part / self.pieces for total, part in zip(gradients, new, strict=True)]
            return (gradients, loss + new_loss / self.pieces, non_trainable), output

        pieces = jax.tree.map(lambda tensor: self._cut(tensor).swapaxes(0, 1), (x, y, sample_weight))
        start = ([jax.numpy.zeros_like(weight) for weight in trainable], jax.numpy.zeros(()), non_trainable)
        (gradients, loss, non_trainable), outputs = jax.lax.scan(one_piece, start, pieces)
        trainable, optimizer_variables = self.optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        output = outputs.swapaxes(0, 1).reshape(y.shape)
        logs, metrics_variables = self._update_metrics_variables(metrics_variables, loss, x, y, output, sample_weight)
        return logs, (trainable, non_trainable, optimizer_variables, metrics_variables)
