"""The model that is trained: one step on both engines, with microbatches, sharpness-aware minimization or a teacher."""

from typing import Any

import keras
from keras import ops

from keras_mixer.mixer_model import MixerModel
from keras_mixer.training.optimizers import global_norm

EPSILON = 1e-12  # a gradient of 0 perturbs nothing


@keras.saving.register_keras_serializable("keras_mixer")
class TrainingModel(MixerModel):
    """A functional model of logits with the training step of a recipe. Files have all of it but the teacher.

    **Microbatches.** The step keeps the activations of one microbatch at a time. The update is that of the full batch:
    gradients are averaged over the microbatches, then clipped and applied once. Keras's `gradient_accumulation_steps`
    accumulates over batches instead, which changes schedules, and fails under MirroredStrategy.

    **Sharpness-aware minimization.** The step uses the gradient at perturbed weights, `w + rho * g / norm(g)`. `g` is
    the gradient of the whole batch over all devices, so the result does not depend on their number; the authors' code
    perturbs on each device separately, which suits a larger `rho` the more devices there are. The optimizer clips and
    applies the second gradient to the weights `w`. Both passes see the same images, with the same masks of dropout and
    stochastic depth. Loss and metrics are those of the first pass. A step costs two forward and backward passes.

    **Teacher.** The loss is `t^2 KL(teacher || student)` of both softmax distributions at temperature t, for the same
    augmented and mixed images, instead of that of the labels. Labels are used for metrics and for the validation loss.

    Attributes:
        accumulation_steps: number of microbatches; must divide the batch size per device.
        sam_rho: L2 norm of the perturbation of all trainable weights together; 0 for none.
        teacher: a `Teacher`, or None.
        teacher_temperature: t.

    Source: algorithm 1 of arXiv 2010.01412, with p = 2; arXiv 2106.05237 (t = 1); the factor t^2 keeps the size of the
    gradient, arXiv 1503.02531.
    """

    accumulation_steps = 1
    sam_rho = 0.0
    teacher: Any = None
    teacher_temperature = 1.0

    def get_config(self):
        return {**super().get_config(), "accumulation_steps": self.accumulation_steps, "sam_rho": self.sam_rho}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        options = {name: config.pop(name) for name in ("accumulation_steps", "sam_rho")}
        model = super().from_config(config, custom_objects)
        model.accumulation_steps, model.sam_rho = options["accumulation_steps"], options["sam_rho"]
        return model

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`() float32`: the loss of a batch; Keras calls it in training and in validation."""
        if self.teacher is None or not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        loss = DistillationLoss(self.teacher_temperature)(self.teacher(x), y_pred, sample_weight)
        return sum(self.losses, start=loss)

    def train_step(self, *arguments):
        """One step on one batch. The backends pass different arguments, see Keras's guides to custom training."""
        on_jax = keras.backend.backend() == "jax"
        if self.accumulation_steps > 1:
            return (self._accumulate_on_jax if on_jax else self._accumulate_on_tensorflow)(*arguments)
        if self.sam_rho:
            return (self._sharpness_aware_on_jax if on_jax else self._sharpness_aware_on_tensorflow)(*arguments)
        return super().train_step(*arguments)

    def _split(self, tensor):
        """`(B, ...) -> (B / steps, steps, ...)`: each microbatch has rows from every device that shares the batch."""
        return None if tensor is None else ops.reshape(tensor, (-1, self.accumulation_steps, *tensor.shape[1:]))

    def _accumulate_on_tensorflow(self, data):
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
        outputs = tf.reshape(tf.stack(outputs, axis=1), tf.shape(y))
        return self._apply_on_tensorflow(gradients, loss, x, y, outputs, sample_weight)

    def _sharpness_aware_on_tensorflow(self, data):
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
        return self._apply_on_tensorflow(gradients, loss, x, y, outputs, sample_weight)

    def _apply_on_tensorflow(self, gradients, loss, x, y, outputs, sample_weight):
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        # Keras divides the loss by the number of replicas.
        self._loss_tracker.update_state(loss * self.distribute_strategy.num_replicas_in_sync)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def _perturbed(self, weights, gradients):
        scale = self.sam_rho / (global_norm(gradients) + EPSILON)
        return [weight + scale * gradient for weight, gradient in zip(weights, gradients, strict=True)]

    def _accumulate_on_jax(self, state, data):
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

    def _sharpness_aware_on_jax(self, state, data):
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


class DistillationLoss(keras.losses.Loss):
    """`t^2 KL(teacher || student)` of logits `(B, classes)`, averaged over the batch."""

    def __init__(self, temperature):
        super().__init__(dtype="float32")
        self.temperature = temperature

    def call(self, y_true, y_pred):
        """`(B, classes), (B, classes) -> (B,)`: logits of the teacher and of the student."""
        teacher, student = (ops.log_softmax(logits / self.temperature) for logits in (y_true, y_pred))
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
