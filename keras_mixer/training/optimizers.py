"""Optimizer, learning-rate schedule and loss of a recipe, with the constants of the official code."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

ADAM_EPSILON = 1e-8  # optax's; Keras's is 1e-7
LINEAR_END = 1e-5  # final learning rate as a fraction of the peak (big_vision)
DROPS = (4, 6, 8)  # tenths of all steps after which the staircase divides by 10 (BiT-HyperRule)
NOT_DECAYED = ["bias", "gamma", "beta"]  # the official code decays parameters named .../kernel only


def global_norm(gradients):
    """`[(...)] -> () float32`: L2 norm of all gradients together."""
    squares = [ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in gradients]
    return ops.sqrt(ops.sum(ops.stack(squares)))


class _ClipAfterReduction(keras.optimizers.Optimizer):
    """Clips the gradient after the all-reduce, and records its norm before that. Only kernels decay.

    Keras 3.15 clips before the all-reduce of tf.distribute, so R replicas clip up to R times less than one device; on
    JAX the order is correct.
    """

    _rate_of_step: Any = None  # during `apply`
    _constants: Any = None

    def build(self, variables):
        if not self.built:
            self.exclude_from_weight_decay(var_names=NOT_DECAYED)
            self.gradient_norm = self.add_variable(shape=(), name="gradient_norm", aggregation="mean")
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        """Updates the variables with one evaluation of the schedule; Keras's own has one for each that decays."""
        self._rate_of_step = ops.convert_to_tensor(self.learning_rate)
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._rate_of_step = self._constants = None  # tensors of one graph

    def _get_current_learning_rate(self):
        return super()._get_current_learning_rate() if self._rate_of_step is None else self._rate_of_step

    def finalize_variable_values(self, var_list):
        """Does nothing: Keras calls it after every `fit`, and a run calls `fit` more than once; see `take_average`."""

    def take_average(self, variables):
        """Sets variables to the moving average of their values."""
        for variable, average in zip(variables, self._model_variables_moving_average, strict=True):
            variable.assign(np.array(average.numpy()))  # a copy: JAX donates buffers from step to step

    def _clip_gradients(self, grads):
        if keras.backend.backend() == "tensorflow":
            grads = [gradient for gradient, _ in super()._all_reduce_sum_gradients([(one, None) for one in grads])]
        norm = global_norm(grads)
        self.gradient_norm.assign(norm)
        if self.global_clipnorm is None:
            return grads
        scale = self.global_clipnorm / ops.maximum(norm, self.global_clipnorm)
        return [gradient * ops.cast(scale, gradient.dtype) for gradient in grads]

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars  # on TensorFlow they were reduced before they were clipped


@keras.saving.register_keras_serializable("keras_mixer")
class AdamW(_ClipAfterReduction, keras.optimizers.AdamW):
    """Keras's AdamW, clipping after the all-reduce. On TensorFlow one operation updates a weight, instead of its 22."""

    def apply(self, grads, trainable_variables=None):
        """Updates the variables; what is the same for all of them is computed once."""
        step = ops.cast(self.iterations + 1, "float32")
        constants = {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}
        constants |= {"beta1_power": self.beta_1**step, "beta2_power": self.beta_2**step}
        self._constants = {name: ops.convert_to_tensor(value, "float32") for name, value in constants.items()}
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        """Updates a variable and its two moments."""
        if keras.backend.backend() != "tensorflow" or variable.dtype != "float32" or self.amsgrad:
            return super().update_step(gradient, variable, learning_rate)
        import tensorflow as tf

        m, v = (slots[self._get_variable_index(variable)].value.handle for slots in (self._momentums, self._velocities))
        lr, grad = (ops.cast(value, "float32") for value in (learning_rate, gradient))
        tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=m, v=v, lr=lr, grad=grad, **self._constants)


@keras.saving.register_keras_serializable("keras_mixer")
class SGD(_ClipAfterReduction, keras.optimizers.SGD):
    """Keras's SGD, clipping after the all-reduce."""


@keras.saving.register_keras_serializable("keras_mixer")
class Muon(_ClipAfterReduction, keras.optimizers.Muon):
    """Keras's Muon, clipping after the all-reduce: orthogonalized momentum in the blocks, AdamW for the rest.

    Source: Keller Jordan's Muon, scaled so that AdamW's rates and decays fit it (arXiv 2502.16982).
    """


@keras.saving.register_keras_serializable("keras_mixer")
@dataclasses.dataclass(eq=False)
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to `peak` over the warm-up, then a decay over the remaining steps; `Recipe.schedule` has the forms.

    Source: big_vision's `create_learning_rate_schedule`; staircase: `get_lr` of google-research/big_transfer.
    """

    decay: str
    peak: float
    warmup_steps: int
    total_steps: int
    first_step: int = 0  # of the run, when the optimizer starts

    def __call__(self, step):
        """`() -> ()`: the learning rate of an optimizer step, counted from 0."""
        step = ops.cast(step, "float32") + self.first_step
        rising = ops.minimum(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        progress = ops.clip((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0, 1.0)
        if self.decay == "cosine":
            falling = 0.5 * (1 + ops.cos(np.pi * progress))
        elif self.decay == "linear":
            falling = 1 + progress * (LINEAR_END - 1)
        else:
            drops = [-(-tenths * self.total_steps // 10) for tenths in DROPS]  # the first step not before each drop
            falling = 0.1 ** sum(ops.cast(step >= drop, "float32") for drop in drops)
        return self.peak * falling * rising

    def get_config(self):
        """The constructor's arguments."""
        return dataclasses.asdict(self)


def build_optimizer(recipe, first_step=0):
    """The optimizer of a recipe for its images, from a step of the run on; ValueError if that is all warm-up."""
    if recipe.warmup_steps >= recipe.steps:
        raise ValueError(
            f"warmup_steps={recipe.warmup_steps} leaves nothing of a run of {recipe.steps} steps; lower --warmup-steps "
            "or train for longer (--epochs, --steps)."
        )
    rates = WarmupDecay(recipe.schedule, recipe.learning_rate, recipe.warmup_steps, recipe.steps, first_step)
    options = {
        "learning_rate": rates,
        "weight_decay": recipe.weight_decay,
        "global_clipnorm": recipe.clip_norm,
        "use_ema": recipe.ema_momentum is not None,
        "ema_momentum": recipe.ema_momentum or 0.0,
    }
    if recipe.optimizer == "sgd":
        return SGD(momentum=0.9, **options)
    if recipe.optimizer == "muon":
        muon = Muon(epsilon=ADAM_EPSILON, exclude_layers=["head/"], **options)
        muon.adam_weight_decay = recipe.weight_decay  # before Keras 3.13 there is one decay for all
        return muon
    return AdamW(epsilon=ADAM_EPSILON, **options)


def build_loss(recipe):
    """Loss on logits `(B, classes)` and one-hot labels; sigmoid: summed over the classes, as in big_vision."""
    if recipe.loss == "sigmoid":
        return sigmoid_cross_entropy
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)


@keras.saving.register_keras_serializable("keras_mixer")
def sigmoid_cross_entropy(labels, logits):
    """`(B, classes), (B, classes) -> (B,)`: binary cross-entropies summed over the classes."""
    return ops.sum(ops.binary_crossentropy(labels, logits, from_logits=True), axis=-1)
