"""Contestant: timm's Mixers and ViTs on PyTorch, on a GPU if there is one; `timm_peer.py [compile]` compiles them.

Images are in memory and scaled.
"""

import contextlib
import sys

import torch
import without_torchvision  # noqa: F401 - before timm
from protocol import serve

import timm  # isort: skip
from timm.models.mlp_mixer import MlpMixer  # isort: skip

COMPILED = "compile" in sys.argv[1:]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES = 1000
NAMES = {f"{name}/{patch}": f"mixer_{name.lower()}{patch}_224" for name in "SBL" for patch in (16, 32)}
NAMES |= {"ViT-B/16": "vit_base_patch16_224", "ViT-L/16": "vit_large_patch16_224"}


def _model(case):
    if case["variant"] == "tiny/4":  # for tests
        return MlpMixer(num_classes=CLASSES, img_size=16, patch_size=4, num_blocks=4, embed_dim=96)
    return timm.create_model(NAMES[case["variant"]], num_classes=CLASSES, img_size=case["image_size"])


def _finish(result):
    return torch.cuda.synchronize() if DEVICE == "cuda" else result.float().sum().item()


def _prepare(case):
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if case["kind"] == "limit":
        x = torch.randn(case["side"], case["side"], dtype=torch.bfloat16, device=DEVICE)
        return lambda: _finish(x @ x)
    torch.manual_seed(0)
    model, bfloat16 = _model(case).to(DEVICE), case["precision"] == "bfloat16"
    images = torch.rand(case["batch_size"], 3, case["image_size"], case["image_size"], device=DEVICE) * 2 - 1
    labels = torch.randint(0, CLASSES, (case["batch_size"],), device=DEVICE)
    if bfloat16 and DEVICE == "cuda" and case["kind"] == "forward":  # faster than autocast
        model, images, bfloat16 = model.to(torch.bfloat16), images.to(torch.bfloat16), False
    model.train(case["kind"] == "train")
    forward = torch.compile(model) if COMPILED else model

    def precision():
        return torch.autocast(DEVICE, torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    def probabilities():
        with torch.inference_mode(), precision():
            _finish(forward(images).float().softmax(-1))

    if case["kind"] == "forward":
        return probabilities
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=DEVICE == "cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        with precision():
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _finish(loss)

    return step


def _device():
    if DEVICE == "cpu":
        return {"device": "cpu", "bytes": None}
    return {"device": torch.cuda.get_device_name(), "bytes": torch.cuda.max_memory_allocated()}


serve(_prepare, _device)
