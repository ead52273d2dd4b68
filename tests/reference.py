"""The oracle: MLP-Mixer's forward pass in float64 NumPy, written from the paper; imports nothing of keras_mixer."""

import numpy as np


def layer_norm(x, gamma, beta):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * gamma + beta


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mlp(x, weights, prefix):
    hidden = gelu(x @ weights[f"{prefix}/dense_0/kernel"] + weights[f"{prefix}/dense_0/bias"])
    return hidden @ weights[f"{prefix}/dense_1/kernel"] + weights[f"{prefix}/dense_1/bias"]


def mixer(pixels, weights):
    """Logits (B, classes) of pixels (B, H, W, channels) in [0, 255]; weights by name, float64."""
    kernel = weights["stem/kernel"]
    patch_h, patch_w, channels, hidden = kernel.shape
    images = (pixels.astype(np.float64) - 127.5) / 127.5
    batch, height, width, _ = images.shape
    grid = images.reshape(batch, height // patch_h, patch_h, width // patch_w, patch_w, channels)
    patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch_h * patch_w * channels)
    x = patches @ kernel.reshape(-1, hidden) + weights["stem/bias"]
    block = 0
    while (name := f"mixer_block_{block}") + "/layer_norm_0/gamma" in weights:
        y = layer_norm(x, weights[f"{name}/layer_norm_0/gamma"], weights[f"{name}/layer_norm_0/beta"])
        x = x + mlp(y.swapaxes(1, 2), weights, f"{name}/token_mixing").swapaxes(1, 2)
        y = layer_norm(x, weights[f"{name}/layer_norm_1/gamma"], weights[f"{name}/layer_norm_1/beta"])
        x = x + mlp(y, weights, f"{name}/channel_mixing")
        block += 1
    x = layer_norm(x, weights["pre_head_layer_norm/gamma"], weights["pre_head_layer_norm/beta"])
    return x.mean(1) @ weights["head/kernel"] + weights["head/bias"]
