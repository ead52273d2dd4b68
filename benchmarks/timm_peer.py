"""Contestant: timm's Mixer on PyTorch, eager or compiled (`timm_peer.py compile`). Inputs in memory, scaled already.

timm imports torchvision. Where only its CUDA build is to be had beside a CPU build of torch (`pip install --no-deps
torchvision`), its own operators are missing and registering them fails; the models use none of them.
"""

import contextlib
import sys

import torch
from protocol import serve

_register_fake = torch.library.register_fake


def _without_torchvision(name, *arguments, **options):
    if isinstance(name, str) and name.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(name, *arguments, **options)


torch.library.register_fake = _without_torchvision

import timm  # noqa: E402 - after the change above

COMPILED = "compile" in sys.argv[1:]
NAMES = {"S/32": "mixer_s32_224", "S/16": "mixer_s16_224", "B/32": "mixer_b32_224", "B/16": "mixer_b16_224"}
CLASSES = 1000


def _prepare(case):
    if case["kind"] == "limit":
        raise ValueError("the limit is measured by another contestant")
    torch.manual_seed(0)
    model = timm.create_model(NAMES[case["variant"]], num_classes=CLASSES, img_size=case["image_size"])
    images = torch.rand(case["batch_size"], 3, case["image_size"], case["image_size"]) * 2 - 1
    labels = torch.randint(0, CLASSES, (case["batch_size"],))
    bfloat16 = case["precision"] == "bfloat16"

    def precision():
        return torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    if case["kind"] == "forward":
        model.eval()
        forward = torch.compile(model) if COMPILED else model

        def call():
            with torch.inference_mode(), precision():
                forward(images).float().softmax(-1).sum().item()

        return call
    model.train()
    forward = torch.compile(model) if COMPILED else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with precision():
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


serve(_prepare)
