"""Gradient accumulation on both engines: the gradient of a large batch, computed in microbatches."""

import keras

from keras_mixer.training.distillation import StudentModel


class AccumulatingModel(StudentModel):
    """A functional model whose training step keeps the activations of one microbatch at a time.

    The update is that of the full batch: gradients are averaged over the microbatches, then clipped and applied once.
    Keras's `gradient_accumulation_steps` accumulates over batches instead, which changes schedules, and fails under
    MirroredStrategy.

    Attributes:
        accumulation_steps: number of microbatches; must divide the batch size per device.
    """

    accumulation_steps = 1

    def train_step(self, *arguments):
        """One step on one batch. The backends pass different arguments, see Keras's guides to custom training."""
        if keras.backend.backend() == "jax":
            return self._jax_step(*arguments)
        return self._tensorflow_step(*arguments)

    def _split(self, tensor):
        """`(B, ...) -> (B / steps, steps, ...)`: each microbatch has rows from every device that shares the batch."""
        return None if tensor is None else keras.ops.reshape(tensor, (-1, self.accumulation_steps, *tensor.shape[1:]))

    def _tensorflow_step(self, data):
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        parts = [self._split(tensor) for tensor in (x, y, sample_weight)]
        weights = self.trainable_weights
        gradients, loss, outputs = [tf.zeros(weight.shape) for weight in weights], 0.0, []
        for i in range(self.accumulation_steps):
            x_i, y_i, weight_i = (None if tensor is None else tensor[:, i] for tensor in parts)
            with tf.control_dependencies(gradients):  # in sequence, or all would be in memory at once
                x_i = tf.identity(x_i)
            with tf.GradientTape() as tape:
                outputs.append(self(x_i, training=True))
                loss_i = self.compute_loss(x_i, y_i, outputs[-1], weight_i, training=True) / self.accumulation_steps
            gradients = [total + new for total, new in zip(gradients, tape.gradient(loss_i, weights), strict=True)]
            loss += loss_i
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        # Keras divides the loss by the number of replicas.
        self._loss_tracker.update_state(loss * self.distribute_strategy.num_replicas_in_sync)
        return self.compute_metrics(x, y, tf.reshape(tf.stack(outputs, axis=1), tf.shape(y)), sample_weight)

    def _jax_step(self, state, data):
        import jax

        trainable, non_trainable, optimizer_variables, metrics_variables = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        gradient = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)

        def step(carried, microbatch):
            gradients, loss, non_trainable = carried
            (_, (new_loss, output, non_trainable, _)), new = gradient(
                trainable,
                non_trainable,
                metrics_variables,
                *microbatch,
                training=True,
                optimizer_variables=optimizer_variables,
            )
            gradients = [total + part / self.accumulation_steps for total, part in zip(gradients, new, strict=True)]
            return (gradients, loss + new_loss / self.accumulation_steps, non_trainable), output

        microbatches = jax.tree.map(lambda tensor: self._split(tensor).swapaxes(0, 1), (x, y, sample_weight))
        start = ([jax.numpy.zeros_like(weight) for weight in trainable], jax.numpy.zeros(()), non_trainable)
        (gradients, loss, non_trainable), outputs = jax.lax.scan(step, start, microbatches)
        trainable, optimizer_variables = self.optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        output = outputs.swapaxes(0, 1).reshape(y.shape)
        logs, metrics_variables = self._update_metrics_variables(metrics_variables, loss, x, y, output, sample_weight)
        return logs, (trainable, non_trainable, optimizer_variables, metrics_variables)
