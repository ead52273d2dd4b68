"""Contestant: timm's Mixer on PyTorch, eager or compiled (`timm_peer.py compile`). Inputs are in memory and scaled."""

import contextlib
import sys

import torch
import without_torchvision  # noqa: F401 - before timm
from protocol import serve

import timm  # isort: skip

COMPILED = "compile" in sys.argv[1:]
NAMES = {"S/32": "mixer_s32_224", "S/16": "mixer_s16_224", "B/32": "mixer_b32_224", "B/16": "mixer_b16_224"}
CLASSES = 1000


def _prepare(case):
    if case["kind"] not in ("forward", "train"):
        raise ValueError(f"unsupported case {case['kind']!r}")
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
