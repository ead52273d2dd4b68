"""One stage of `waits.py` with timm and PyTorch, eager: `timm_waits.py STAGE PHOTOGRAPHS RESULTS`.

Functions import what they need, because every import is part of what is measured.
"""

import os
import sys
from pathlib import Path

BATCH_SIZE = 32


def built(name="mixer_s32_224", classes=2, weights=None):
    """A Mixer, with the weights of a file if there is one."""
    import timm
    import torch

    model = timm.create_model(name, num_classes=classes)
    if weights:
        model.load_state_dict(torch.load(weights))
    return model


def loader(photographs, part):
    """Batches of the photographs of a part: random crop and flip for training, one worker process per core."""
    import timm.data
    import torch

    images, training = timm.data.ImageDataset(str(Path(photographs, part))), part == "train"
    options = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "scale": (0.05, 1.0), "color_jitter": None}
    options |= {"num_workers": len(os.sched_getaffinity(0)), "device": torch.device("cpu"), "persistent_workers": False}
    return timm.data.create_loader(images, (3, 224, 224), BATCH_SIZE, is_training=training, **options)


def step_of(model):
    """A training step: AdamW with gradient clipping."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()

    def step(images, labels):
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def accuracy(model, photographs):
    """Fraction of the test photographs that the model classifies correctly."""
    import torch

    model.eval()
    with torch.inference_mode():
        right = [model(images).argmax(1) == labels for images, labels in loader(photographs, "test")]
    return torch.cat(right).float().mean().item()


def first_answer(photographs, file):
    """The logits of ONNX Runtime for one photograph."""
    import numpy as np
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(file)
    with Image.open(next(Path(photographs, "test").rglob("*.jpg"))) as image:
        pixels = np.asarray(image.convert("RGB").resize((224, 224)), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


def main(stage, photographs, results):
    """Runs one stage."""
    if stage == "first_answer":
        print(first_answer(photographs, results / "model.onnx"))
        return
    import torch
    import without_torchvision  # noqa: F401 - before timm

    import timm  # isort: skip

    weights = results / "weights.pt"
    if stage == "build":
        timm.create_model("mixer_b16_224")
    if stage == "first_step":
        step_of(built("mixer_b16_224", 1000))(torch.rand(16, 3, 224, 224), torch.randint(0, 1000, (16,)))
    if stage == "epoch":
        model = built()
        step = step_of(model)
        for images, labels in loader(photographs, "train"):
            step(images, labels)
        print(accuracy(model, photographs))
        torch.save(model.state_dict(), weights)
    if stage == "evaluation":
        print(accuracy(built(weights=weights), photographs))
    if stage == "export":
        shapes = ({0: torch.export.Dim("batch")},)
        model = built(weights=weights).eval()
        torch.onnx.export(model, (torch.rand(2, 3, 224, 224),), results / "model.onnx", dynamic_shapes=shapes)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
