"""Sharpness-aware minimization on both engines: the gradient is taken where the loss nearby is highest."""

import keras

from keras_mixer.training.distillation import StudentModel
from keras_mixer.training.optimizers import global_norm

EPSILON = 1e-12  # a gradient of 0 perturbs nothing


class SharpnessAwareModel(StudentModel):
    """A functional model whose training step uses the gradient at perturbed weights, `w + rho * g / norm(g)`.

    `g` is the gradient of the whole batch over all devices, so the result does not depend on their number; the authors'
    code perturbs on each device separately, which suits a larger `rho` the more devices there are. The optimizer clips
    and applies the second gradient to the weights `w`. Both passes see the same images, with the same masks of dropout
    and stochastic depth. Loss and metrics are those of the first pass. A step costs two forward and backward passes.

    Attributes:
        sam_rho: L2 norm of the perturbation of all trainable weights together.

    Source: algorithm 1 of arXiv 2010.01412, with p = 2.
    """

    sam_rho = 0.0

    def train_step(self, *arguments):
        """One step on one batch. The backends pass different arguments, see Keras's guides to custom training."""
        if keras.backend.backend() == "jax":
            return self._jax_step(*arguments)
        return self._tensorflow_step(*arguments)

    def _perturbed(self, weights, gradients):
        scale = self.sam_rho / (global_norm(gradients) + EPSILON)
        return [weight + scale * gradient for weight, gradient in zip(weights, gradients, strict=True)]

    def _tensorflow_step(self, data):
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights, others = self.trainable_variables, self.non_trainable_variables  # the others include random seeds

        def gradients_and_loss():
            with tf.GradientTape() as tape:
                outputs = self(x, training=True)
                loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
            return tape.gradient(loss, weights), loss, outputs

        # Each replica assigns its own copies, all of them the same values. Tensors would be simpler than assignments,
        # but `tf.recompute_grad` finds the gradients of variables only.
        before, others_before = ([tf.convert_to_tensor(variable) for variable in part] for part in (weights, others))
        gradients, loss, outputs = gradients_and_loss()
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        _assign([*weights, *others], [*self._perturbed(before, gradients), *others_before])
        gradients, _, _ = gradients_and_loss()
        _assign(weights, before)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        # Keras divides the loss by the number of replicas.
        self._loss_tracker.update_state(loss * self.distribute_strategy.num_replicas_in_sync)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def _jax_step(self, state, data):
        import jax

        trainable, non_trainable, optimizer_variables, metrics_variables = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def gradients_at(weights):
            gradients = jax.grad(self.compute_loss_and_updates, has_aux=True)
            inputs = (non_trainable, metrics_variables, x, y, sample_weight)
            return gradients(weights, *inputs, training=True, optimizer_variables=optimizer_variables)

        gradients, (loss, outputs, _, _) = gradients_at(trainable)
        gradients, (_, _, non_trainable_after, _) = gradients_at(self._perturbed(trainable, gradients))
        trainable, optimizer_variables = self.optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        logs, metrics_variables = self._update_metrics_variables(metrics_variables, loss, x, y, outputs, sample_weight)
        return logs, (trainable, non_trainable_after, optimizer_variables, metrics_variables)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
