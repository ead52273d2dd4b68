"""Contestant: the Mixer of the paper's appendix E, reimplemented in Flax (linen) with optax. Inputs are scaled."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from protocol import serve

CLASSES = 1000
SIZES = {  # patch, blocks, C, D_S, D_C: Table 1
    "S/32": (32, 8, 512, 256, 2048),
    "S/16": (16, 8, 512, 256, 2048),
    "B/32": (32, 12, 768, 384, 3072),
    "B/16": (16, 12, 768, 384, 3072),
}


def mlp(x, dim, dtype):
    """Dense, GELU, Dense over the last axis: `(B, ..., D) -> (B, ..., D)`."""
    return nn.Dense(x.shape[-1], dtype=dtype)(nn.gelu(nn.Dense(dim, dtype=dtype)(x)))


class Mixer(nn.Module):
    """Images in [-1, 1] to logits."""

    patch: int
    blocks: int
    channels: int
    tokens_mlp: int
    channels_mlp: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """`(B, H, W, 3) -> (B, 1000)`."""
        side = (self.patch, self.patch)
        x = nn.Conv(self.channels, side, strides=side, dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # (B, S, C)
        for _ in range(self.blocks):
            y = nn.LayerNorm(dtype=self.dtype)(x).swapaxes(1, 2)
            x = x + mlp(y, self.tokens_mlp, self.dtype).swapaxes(1, 2)
            x = x + mlp(nn.LayerNorm(dtype=self.dtype)(x), self.channels_mlp, self.dtype)
        x = nn.LayerNorm(dtype=self.dtype)(x).mean(1)
        return nn.Dense(CLASSES, kernel_init=nn.initializers.zeros)(x)


def _prepare(case):
    dtype = jnp.bfloat16 if case["precision"] == "bfloat16" else jnp.float32
    model = Mixer(*SIZES[case["variant"]], dtype=dtype)
    side = case["image_size"]
    images = jax.random.uniform(jax.random.key(0), (case["batch_size"], side, side, 3), minval=-1, maxval=1)
    weights = jax.jit(model.init)(jax.random.key(1), images)
    if case["kind"] == "forward":
        forward = jax.jit(lambda weights, images: nn.softmax(model.apply(weights, images).astype(jnp.float32)))
        return lambda: forward(weights, images).block_until_ready()
    labels = jax.nn.one_hot(jax.random.randint(jax.random.key(2), (case["batch_size"],), 0, CLASSES), CLASSES)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.1))

    def loss(weights):
        return optax.softmax_cross_entropy(model.apply(weights, images).astype(jnp.float32), labels).mean()

    def step(weights, state):
        value, gradient = jax.value_and_grad(loss)(weights)
        updates, state = rule.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state, value

    step = jax.jit(step, donate_argnums=(0, 1))
    held = [weights, rule.init(weights)]

    def call():
        held[0], held[1], value = step(*held)
        value.block_until_ready()

    return call


serve(_prepare)
