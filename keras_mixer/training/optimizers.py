"""Optimizer, learning-rate schedule and loss of a recipe, with the constants of the official code."""

from typing import TYPE_CHECKING

import keras
import numpy as np

if TYPE_CHECKING:  # every `import keras_mixer` imports this file
    from keras_mixer.training.recipe import Recipe

ADAM_EPSILON = 1e-8  # optax's; Keras's is 1e-7
LINEAR_END = 1e-5  # final learning rate as a fraction of the peak (big_vision)
DROPS = (4, 6, 8)  # tenths of all steps after which the staircase divides by 10 (BiT-HyperRule)
NOT_DECAYED = ["bias", "gamma", "beta"]  # the official code decays parameters named .../kernel only


def global_norm(gradients):
    """`[(...)] -> () float32`: L2 norm of all gradients together."""
    squares = [keras.ops.sum(keras.ops.square(keras.ops.cast(gradient, "float32"))) for gradient in gradients]
    return keras.ops.sqrt(keras.ops.sum(keras.ops.stack(squares)))


class _ClipAfterReduction(keras.optimizers.Optimizer):
    """Clips the gradient after it is summed over replicas, and stores its norm. Only kernels decay.

    Keras 3.15 clips before the all-reduce of tf.distribute, so R replicas clip up to R times less than one device. The
    hook belongs to the TensorFlow backend; on other backends, and on one device, the order is already correct.

    Attributes:
        gradient_norm: `()` float32 variable: global norm of the last gradient, before clipping.
    """

    _rate_of_step = None

    def build(self, variables):
        if not self.built:
            self.exclude_from_weight_decay(var_names=NOT_DECAYED)
            self.gradient_norm = self.add_variable(shape=(), name="gradient_norm", aggregation="mean")
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        """Updates the variables, with one evaluation of the schedule.

        Keras evaluates it again for the decay of each variable: 150 conditions in a step of B/16, half of its graph.
        """
        self._rate_of_step = keras.ops.convert_to_tensor(self.learning_rate)
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._rate_of_step = None

    def _get_current_learning_rate(self):
        return super()._get_current_learning_rate() if self._rate_of_step is None else self._rate_of_step

    def finalize_variable_values(self, var_list):
        """Does nothing: Keras calls it after every `fit`, and a run calls `fit` more than once; see `take_average`."""

    def take_average(self, variables):
        """Sets variables to a copy of the moving average of their values, if the optimizer has one.

        A copy, because JAX donates buffers from step to step: Keras's assignment would let two variables share one.
        """
        if self.use_ema:
            for variable, average in zip(variables, self._model_variables_moving_average, strict=True):
                variable.assign(np.array(average.numpy()))

    def _clip_gradients(self, grads):
        return list(grads) if keras.backend.backend() == "tensorflow" else self._clip_by_global_norm(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        reduced = super()._all_reduce_sum_gradients(grads_and_vars)
        clipped = self._clip_by_global_norm([gradient for gradient, _ in reduced])
        return list(zip(clipped, [variable for _, variable in reduced], strict=True))

    def _clip_by_global_norm(self, grads):
        norm = global_norm(grads)
        self.gradient_norm.assign(norm)
        if self.global_clipnorm is None:
            return grads
        scale = self.global_clipnorm / keras.ops.maximum(norm, self.global_clipnorm)
        return [gradient * keras.ops.cast(scale, gradient.dtype) for gradient in grads]


@keras.saving.register_keras_serializable("keras_mixer")
class AdamW(_ClipAfterReduction, keras.optimizers.AdamW):
    """Keras's AdamW, clipping after the all-reduce, and on TensorFlow updating in one pass over memory.

    Keras writes the same arithmetic as a dozen operations, which TensorFlow runs one by one: on a CPU, AdamW then takes
    1.6 times as long, which costs 5 % of a bfloat16 S/32 step.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its two moments."""
        if keras.backend.backend() != "tensorflow" or self.amsgrad:
            return super().update_step(gradient, variable, learning_rate)
        import tensorflow as tf

        def scalar(value):
            return tf.cast(value, variable.dtype)

        index, step = self._get_variable_index(variable), scalar(self.iterations.value + 1)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=scalar(self.beta_1) ** step,
            beta2_power=scalar(self.beta_2) ** step,
            lr=scalar(learning_rate),
            beta1=scalar(self.beta_1),
            beta2=scalar(self.beta_2),
            epsilon=scalar(self.epsilon),
            grad=tf.cast(gradient, variable.dtype),
        )


@keras.saving.register_keras_serializable("keras_mixer")
class SGD(_ClipAfterReduction, keras.optimizers.SGD):
    """Keras's SGD, clipping after the all-reduce."""


@keras.saving.register_keras_serializable("keras_mixer")
class Muon(_ClipAfterReduction, keras.optimizers.Muon):
    """Keras's Muon, clipping after the all-reduce, with one weight decay for all kernels.

    The matrices of the blocks get an orthogonalized momentum: every direction of the update has about the same size.
    The stem, the head, biases and LayerNorm get AdamW, as do the kernels of untied token mixing, which are no matrices.

    Source: Keller Jordan's Muon, scaled so that AdamW's rates and decays fit it (arXiv 2502.16982).
    """

    def _apply_weight_decay(self, variables):
        super(keras.optimizers.Muon, self)._apply_weight_decay(variables)  # Muon's own has a second rate, for AdamW


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to the peak over the warm-up, times `decay` of the step."""

    def __init__(self, peak, warmup_steps, total_steps):
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step):
        """`() -> ()`: the learning rate of an optimizer step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        rising = keras.ops.minimum(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return self.peak * self.decay(step) * rising

    def get_config(self):
        """The constructor's arguments."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


@keras.saving.register_keras_serializable("keras_mixer")
class WarmupLinear(_Warmup):
    """Linear from 0 to the peak over the warm-up, then linear down to `LINEAR_END` of it at the last step.

    Source: big_vision's `create_learning_rate_schedule` with decay_type "linear".
    """

    def decay(self, step):
        """`() -> ()`: from 1 at the end of the warm-up to `LINEAR_END`."""
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return 1 + keras.ops.clip(progress, 0.0, 1.0) * (LINEAR_END - 1)


@keras.saving.register_keras_serializable("keras_mixer")
class WarmupStaircase(_Warmup):
    """Linear from 0 to the peak over the warm-up, then divided by 10 after 40, 60 and 80 % of all steps.

    Source: BiT-HyperRule, `get_schedule` and `get_lr` of google-research/big_transfer.
    """

    def decay(self, step):
        """`() -> ()`: 1, 0.1, 0.01, 0.001."""
        drops = [-(-tenths * self.total_steps // 10) for tenths in DROPS]  # the first step that is not before the drop
        return 0.1 ** sum(keras.ops.cast(step >= drop, "float32") for drop in drops)


def build_schedule(recipe: "Recipe", total_steps):
    """Linear warm-up from 0 to the peak, then the decay of the recipe, over `total_steps`.

    Raises:
        ValueError: the warm-up is not shorter than the run.
    """
    if recipe.warmup_steps >= total_steps:
        raise ValueError(
            f"warmup_steps={recipe.warmup_steps} leaves nothing of a run of {total_steps} steps; lower --warmup-steps "
            "or raise --epochs."
        )
    warmups = {"linear": WarmupLinear, "staircase": WarmupStaircase}
    if recipe.schedule in warmups:
        return warmups[recipe.schedule](recipe.learning_rate, recipe.warmup_steps, total_steps)
    if not recipe.warmup_steps:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        total_steps - recipe.warmup_steps,
        warmup_target=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
    )


def build_optimizer(recipe: "Recipe", total_steps):
    """The optimizer of a recipe with its schedule."""
    options = {
        "learning_rate": build_schedule(recipe, total_steps),
        "weight_decay": recipe.weight_decay,
        "global_clipnorm": recipe.clip_norm,
        "use_ema": recipe.ema_momentum is not None,
        "ema_momentum": recipe.ema_momentum or 0.0,
    }
    if recipe.optimizer == "sgd":
        return SGD(momentum=0.9, **options)
    if recipe.optimizer == "muon":
        return Muon(epsilon=ADAM_EPSILON, exclude_layers=["head/"], **options)
    return AdamW(epsilon=ADAM_EPSILON, **options)


def build_loss(recipe: "Recipe"):
    """Loss on logits `(B, classes)` and one-hot labels; sigmoid: summed over the classes, as in big_vision."""
    if recipe.loss == "sigmoid":
        return sigmoid_cross_entropy
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)


@keras.saving.register_keras_serializable("keras_mixer")
def sigmoid_cross_entropy(labels, logits):
    """`(B, classes), (B, classes) -> (B,)`: binary cross-entropies summed over the classes."""
    zero = keras.ops.zeros_like(logits)
    # log(1 + exp(x)) - x * y, in the form that does not overflow
    loss = keras.ops.maximum(logits, zero) - logits * labels + keras.ops.log1p(keras.ops.exp(-keras.ops.abs(logits)))
    return keras.ops.sum(loss, axis=-1)
