"""Contestant of `gpu.py`: timm's Mixers and ViTs on PyTorch, compiled, in bfloat16, with images on the device."""

import torch
import without_torchvision  # noqa: F401 - before timm
from protocol import serve

import timm  # isort: skip
from timm.models.mlp_mixer import MlpMixer  # isort: skip

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES = 1000
NAMES = {f"Mixer-{name}/{patch}": f"mixer_{name.lower()}{patch}_224" for name in "SBL" for patch in (16, 32)}
NAMES |= {"ViT-B/16": "vit_base_patch16_224", "ViT-L/16": "vit_large_patch16_224"}


def _model(case):
    if case["model"] == "Mixer-tiny/4":  # for tests
        return MlpMixer(num_classes=CLASSES, img_size=16, patch_size=4, num_blocks=4, embed_dim=96).to(DEVICE)
    if case["model"] not in NAMES:
        raise ValueError(f"timm has no {case['model']}")
    return timm.create_model(NAMES[case["model"]], num_classes=CLASSES).to(DEVICE)


def _prepare(case):
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if case["kind"] == "limit":
        x = torch.randn(case["side"], case["side"], dtype=torch.bfloat16, device=DEVICE)
        return lambda: _finish(x @ x)
    model = _model(case)
    images = torch.rand(case["batch_size"], 3, case["image_size"], case["image_size"], device=DEVICE) * 2 - 1
    if case["kind"] == "forward":
        forward = torch.compile(model.eval().to(torch.bfloat16))
        images = images.to(torch.bfloat16)

        def call():
            with torch.inference_mode():
                _finish(forward(images))

        return call
    labels = torch.randint(0, CLASSES, (case["batch_size"],), device=DEVICE)
    forward = torch.compile(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _finish(loss)

    return step


def _finish(result):
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return result


def _device():
    if DEVICE == "cpu":
        return {"device": "cpu", "bytes": None}
    return {"device": torch.cuda.get_device_name(), "bytes": torch.cuda.max_memory_allocated()}


serve(_prepare, _device)
