"""The model that is trained: one step on both engines, with microbatches, sharpness-aware minimization, a teacher."""

from typing import Any

import keras
from keras import ops

from keras_mixer.mixer_model import MixerModel
from keras_mixer.training.optimizers import build_loss, build_optimizer, global_norm
from keras_mixer.weights.resolution import model_like, rebuild

EPSILON = 1e-12  # a gradient of 0 perturbs nothing


@keras.saving.register_keras_serializable("keras_mixer")
class TrainingModel(MixerModel):
    """A functional model of logits with the training step of a recipe. Files have all of it but the teacher.

    **Microbatches.** The activations of one microbatch at a time are kept. Gradients are averaged over them, then
    clipped and applied once; Keras's `gradient_accumulation_steps` accumulates over batches, which changes schedules.

    **Sharpness-aware minimization** (algorithm 1 of arXiv 2010.01412, p = 2). The step uses the gradient at the weights
    `w + rho * g / norm(g)`, where `g` is that of the batch over all devices. Both passes have the same images and masks
    of dropout and stochastic depth; loss and metrics are those of the first.

    **Teacher** (arXiv 2106.05237). The loss is `t^2 KL(teacher || student)` at temperature t for the same augmented
    images; t^2 keeps the size of the gradient (arXiv 1503.02531). Labels are used for metrics and validation.
    """

    accumulation_steps = 1  # microbatches; must divide the batch size per device
    sam_rho = 0.0  # L2 norm of the perturbation of all trainable weights together; 0: none
    teacher: Any = None  # a `Teacher`
    frozen: bool | None = None  # whether only the head learns; None: not prepared

    @classmethod
    def of(cls, start, recipe, devices, teacher=None) -> "TrainingModel":
        """A copy of a model of logits, to be trained by a recipe for its images."""
        keras.utils.set_random_seed(recipe.seed)
        if isinstance(start, MixerModel):
            twice = recipe.rematerialize or ("tokens" if recipe.rematerialize_tokens else False)
            flattened = devices.platform != "tpu"
            copy = rebuild(start, precision=recipe.precision, rematerialize=twice, flattened=flattened)
        elif recipe.precision != "float32" or devices.strategy is not None:
            # With replicas, each would have its own BatchNormalization statistics.
            raise ValueError(
                f"Expected a Mixer, or float32 and one device, got {start.name!r} with precision={recipe.precision!r} "
                f"on {devices.description}."
            )
        else:
            copy = keras.models.clone_model(start)
        model = cls(copy.inputs, copy.outputs[0], name=copy.name)
        model.accumulation_steps, model.sam_rho, model.teacher = recipe.accumulation_steps, recipe.sam_rho, teacher
        model.set_weights(start.get_weights())
        if devices.strategy is not None:
            devices.per_replica_seeds(model)
        model.recipe, model.devices = recipe, devices
        model.body = [layer.name for layer in model.layers if layer.trainable and layer.name != "head"]
        return model

    @property
    def step(self) -> int:
        """Optimizer steps since the start of the run; after the frozen ones the optimizer is another."""
        return int(self.optimizer.iterations.numpy()) + (0 if self.frozen else self.recipe.frozen_steps)

    def prepare(self, freeze=False):
        """Compiles the model, if it is not compiled so: with `freeze`, only the head learns."""
        if freeze == self.frozen:
            return
        self.frozen = freeze
        for name in self.body:
            self.get_layer(name).trainable = not freeze
        self.compile(
            optimizer=build_optimizer(self.recipe, 0 if freeze else self.recipe.frozen_steps),
            loss=build_loss(self.recipe),
            weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=self.devices.jit_compile,
        )
        self.optimizer.build(self.trainable_variables)

    def classifier(self, model):
        """A float32 copy that ends with probabilities: the weights are given to `model`, whose layers it shares."""
        model.set_weights(self.get_weights())
        logits = model.outputs[0]
        probabilities = keras.layers.Activation(self.recipe.loss, dtype=logits.dtype, name="probabilities")(logits)
        return model_like(model, model.inputs[0], probabilities)

    def get_config(self):
        return {**super().get_config(), "accumulation_steps": self.accumulation_steps, "sam_rho": self.sam_rho}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        steps, rho = config.pop("accumulation_steps"), config.pop("sam_rho")
        model = super().from_config(config, custom_objects)
        model.accumulation_steps, model.sam_rho = steps, rho
        return model

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`() float32`: the loss of a batch; Keras calls it in training and in validation."""
        if self.teacher is None or not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        return sum(self.losses, start=self.teacher.loss(self.teacher(x), y_pred, sample_weight))

    def train_step(self, *arguments):
        """One step on one batch. The backends pass different arguments, see Keras's guides to custom training."""
        return (self._jax_step if keras.backend.backend() == "jax" else self._tensorflow_step)(*arguments)

    def _tensorflow_step(self, data):
        import tensorflow as tf

        batch = x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights, others = self.trainable_variables, self.non_trainable_variables  # the others include random seeds
        if not self.sam_rho:
            gradients, loss, outputs = self._tensorflow_gradients(batch)
        else:
            # Assigned on each replica, because `tf.recompute_grad` finds the gradients of variables only.
            before, others_before = ([tf.convert_to_tensor(one) for one in part] for part in (weights, others))
            gradients, loss, outputs = self._tensorflow_gradients(batch)
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            _assign([*weights, *others], [*self._perturbed(before, gradients), *others_before])
            gradients, _, _ = self._tensorflow_gradients(batch)
            _assign(weights, before)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        # Keras divides the loss by the number of replicas.
        self._loss_tracker.update_state(loss * self.distribute_strategy.num_replicas_in_sync)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def _tensorflow_gradients(self, batch):
        """Gradients at the present weights, averaged over the microbatches; the loss; the logits `(B, classes)`."""
        import tensorflow as tf

        steps, weights = self.accumulation_steps, self.trainable_weights
        gradients: list = []
        loss, outputs = 0.0, []
        for i in range(steps):
            microbatch = [part if part is None else self._split(part)[:, i] for part in batch] if steps > 1 else batch
            x_i, y_i, weight_i = microbatch
            with tf.control_dependencies(gradients):  # in sequence, or all would be in memory at once
                x_i = tf.identity(x_i)
            with tf.GradientTape() as tape:
                outputs.append(self(x_i, training=True))
                loss_i = self.compute_loss(x_i, y_i, outputs[-1], weight_i, training=True) / steps
            new = tape.gradient(loss_i, weights)
            gradients = [total + one for total, one in zip(gradients, new, strict=True)] if gradients else new
            loss += loss_i
        return gradients, loss, tf.reshape(tf.stack(outputs, axis=1), tf.shape(batch[1]))

    def _jax_step(self, state, data):
        trainable, _, optimizer_variables, metrics_variables = state
        batch = x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        gradients, loss, outputs, others = self._jax_gradients(state, batch, trainable)
        if self.sam_rho:
            gradients, _, _, others = self._jax_gradients(state, batch, self._perturbed(trainable, gradients))
        trainable, optimizer_variables = self.optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        logs, metrics_variables = self._update_metrics_variables(metrics_variables, loss, x, y, outputs, sample_weight)
        return logs, (trainable, others, optimizer_variables, metrics_variables)

    def _jax_gradients(self, state, batch, weights):
        """As `_tensorflow_gradients`, at any weights; and the other variables after the pass."""
        import jax

        _, non_trainable, optimizer_variables, metrics_variables = state
        steps = self.accumulation_steps
        gradient = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        options = {"training": True, "optimizer_variables": optimizer_variables}

        def one_pass(batch, others):
            (_, (loss, outputs, others, _)), gradients = gradient(weights, others, metrics_variables, *batch, **options)
            return gradients, loss, outputs, others

        def add(carried, microbatch):
            gradients, loss, others = carried
            new, new_loss, outputs, others = one_pass(microbatch, others)
            gradients = [total + part / steps for total, part in zip(gradients, new, strict=True)]
            return (gradients, loss + new_loss / steps, others), outputs

        if steps == 1:
            return one_pass(batch, non_trainable)
        microbatches = jax.tree.map(lambda tensor: self._split(tensor).swapaxes(0, 1), batch)
        start = ([jax.numpy.zeros_like(weight) for weight in weights], jax.numpy.zeros(()), non_trainable)
        (gradients, loss, others), outputs = jax.lax.scan(add, start, microbatches)
        return gradients, loss, outputs.swapaxes(0, 1).reshape(batch[1].shape), others

    def _split(self, tensor):
        """`(B, ...) -> (B / steps, steps, ...)`: each microbatch has rows from every device that shares the batch."""
        return ops.reshape(tensor, (-1, self.accumulation_steps, *tensor.shape[1:]))

    def _perturbed(self, weights, gradients):
        scale = self.sam_rho / (global_norm(gradients) + EPSILON)
        return [weight + scale * gradient for weight, gradient in zip(weights, gradients, strict=True)]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
