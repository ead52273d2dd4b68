"""The oracle in float64 NumPy: MLP-Mixer's forward pass and the evaluation crops; imports nothing of keras_mixer."""

import math

import numpy as np


def layer_norm(x, gamma, beta):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * gamma + beta


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def mlp(x, weights, prefix, activation):
    hidden = activation(x @ weights[f"{prefix}/dense_0/kernel"] + weights[f"{prefix}/dense_0/bias"])
    return hidden @ weights[f"{prefix}/dense_1/kernel"] + weights[f"{prefix}/dense_1/bias"]


def mixer(pixels, weights, activation=gelu):
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
        x = x + mlp(y.swapaxes(1, 2), weights, f"{name}/token_mixing", activation).swapaxes(1, 2)
        y = layer_norm(x, weights[f"{name}/layer_norm_1/gamma"], weights[f"{name}/layer_norm_1/beta"])
        x = x + mlp(y, weights, f"{name}/channel_mixing", activation)
        block += 1
    x = layer_norm(x, weights["pre_head_layer_norm/gamma"], weights["pre_head_layer_norm/beta"])
    return x.mean(1) @ weights["head/kernel"] + weights["head/bias"]


def bilinear(image, height, width):
    """(H, W, channels) uint8 -> (height, width, channels) float64: between the four nearest pixel centers."""

    def along(size, target):
        place = (np.arange(target) + 0.5) * size / target - 0.5
        low = np.floor(place).astype(int)
        share = place - low
        return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), share

    top, bottom, y = along(image.shape[0], height)
    left, right, x = along(image.shape[1], width)
    image, y, x = image.astype(np.float64), y[:, None, None], x[None, :, None]
    upper = image[top][:, left] * (1 - x) + image[top][:, right] * x
    lower = image[bottom][:, left] * (1 - x) + image[bottom][:, right] * x
    return upper * (1 - y) + lower * y


def area(image, height, width):
    """(H, W, channels) uint8 -> (height, width, channels) float64: means over the rectangles of a coarser grid."""

    def shares(size, target):
        edges = np.arange(target + 1) * size / target
        pixels = np.arange(size)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        overlap = np.maximum(overlap, 0)
        return overlap / overlap.sum(1, keepdims=True)

    rows, columns = shares(image.shape[0], height), shares(image.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", rows, image, columns, optimize=True)


def evaluation_crop(image, size, crop):
    """(H, W, 3) uint8 -> (height, width, 3) float64: the three crops, before fractions are cut off."""
    height, width = size
    tall, wide = round(height * 8 / 7), round(width * 8 / 7)
    if crop == "resize":
        return bilinear(image, height, width)
    if crop == "resize-crop":
        resized = bilinear(image, tall, wide)
    else:
        scale = max(tall / image.shape[0], wide / image.shape[1])
        resized = area(image, round(image.shape[0] * scale), round(image.shape[1] * scale))
    top, left = (resized.shape[0] - height) // 2, (resized.shape[1] - width) // 2
    return resized[top : top + height, left : left + width]
