"""VTAB-1k: a pre-trained model fine-tuned on each of 19 tasks with 1000 examples.

Source: arXiv 1910.04867 for the protocol; section 3 of arXiv 2105.01601 and BiT-HyperRule of google-research/
big_transfer for the fine-tuning: SGD with momentum 0.9, 500 steps of 512 images, 100 of them warm-up, learning rate
divided by 10 after 200, 300 and 400, no mixup; 224 px for small images, 448 px for others.
"""

import functools
import shutil
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
import tyro

import keras_mixer
from experiments.networks import open_model, stem_and_blocks
from experiments.training import print_table, remembered
from experiments.vtab_tasks import GROUPS, VTAB_TASKS

# `fit` raises it; it has no public name.
from keras_mixer.training.callbacks import TrainingDiverged

CROP = (7 / 8) ** 2  # BiT resizes images to 8/7 of the input side and crops


def sizes_of(model):
    """The sizes of a Mixer as fields of a recipe."""
    stem, blocks = stem_and_blocks(model)
    sizes = {"patch_size": stem.patch_size[0], "hidden_dim": stem.hidden_dim, "num_blocks": len(blocks)}
    return sizes | {name: getattr(blocks[0], name) for name in ("tokens_mlp_dim", "channels_mlp_dim")}


def fields_of(task, learning_rate, seed, steps, image_size=None):
    """The fine-tuning on a task as fields of a recipe."""
    fields = {"optimizer": "sgd", "learning_rate": learning_rate, "schedule": "staircase", "warmup_steps": steps // 5}
    fields |= {"steps": steps, "steps_per_epoch": steps, "checkpoint_every_steps": 50, "seed": seed}
    fields |= {"image_size": image_size or (224 if task.small else 448), "evaluation_crop": "resize"}
    area = (CROP, CROP) if task.crop_and_flip else (1.0, 1.0)
    return fields | {"crop_area": area, "crop_aspect": None, "flip": task.crop_and_flip}


def read_task(task, data_dir=None, download=False):
    """`{"train", "validation", "both", "test"}`: datasets of `(encoded image, label)`; None if they are not on disk."""
    builder = tfds.builder(task.data, data_dir=data_dir)
    if not builder.is_prepared():
        if not download or getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None):
            return None
        builder.download_and_prepare()
    wanted = {"image": True, task.feature: True}
    decoders = tfds.decode.PartialDecoding(wanted, decoders={"image": tfds.decode.SkipDecoding()})
    sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
    splits = task.splits(sizes).items()
    return {part: builder.as_dataset(split=split, decoders=decoders).map(task.example) for part, split in splits}


def fine_tuned(task, train, test, workdir, fields):
    """Top-1 of a fine-tuned model; 0 if the training diverged, since outputs that are not finite are never correct."""
    options = {"workdir": workdir, "classes": task.classes, "log": lambda line: None}
    try:
        return keras_mixer.fit("finetune", train=train, test=test, **options, **fields).metrics["accuracy"]
    except TrainingDiverged as error:
        print(f"{task.name}: {error}")
        return 0.0


def main(
    model: tyro.conf.Positional[Path],
    workdir: Path,
    data_dir: str | None = None,
    tasks: tuple[str, ...] = tuple(VTAB_TASKS),
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03),
    steps: int = 500,
    batch_size: int = 512,
    seeds: tuple[int, ...] = (0,),
    image_size: int | None = None,
    precision: str = "float32",
    devices: str = "auto",
    download: bool = False,
):
    """Fine-tune a model on each of the 19 tasks with 1000 examples; rerun the same command to resume.

    Args:
        model: a finished run or .keras file with pre-trained weights.
        workdir: folder of the results, vtab.jsonl, and of the run in progress.
        data_dir: folder of prepared TensorFlow Datasets.
        tasks: names of tasks.
        learning_rates: peak rates; if more than one, each task uses the best on its 200 validation images.
        steps: optimizer steps of each fine-tuning.
        batch_size: images per step.
        seeds: one fine-tuning each; the result of a task is their median.
        image_size: side of the input in pixels for all tasks; 224 (small images) or 448 by default.
        precision: float32 or mixed_bfloat16.
        devices: devices to train on: auto, cpu, gpu, tpu, or the number of devices of the best kind.
        download: download and prepare what is missing and needs no manual download.
    """
    start = {"weights": str(model / "model.keras" if model.is_dir() else model)} | sizes_of(open_model(model))
    common = {"global_batch_size": batch_size, "precision": precision, "devices": devices} | start
    medians, rows = {}, []
    for task in (VTAB_TASKS[name] for name in tasks):
        data = read_task(task, data_dir, download)
        if data is None:
            print(f"{task.name} is not measured. Prepare its data: tfds build {task.data} --data_dir=FOLDER")
            continue

        def accuracy(train, test, rate, seed, task=task, data=data):
            fields = common | fields_of(task, rate, seed, steps, image_size)
            run = workdir / f"{task.name}_{test}_{rate:g}_{seed}"
            measure = functools.partial(fine_tuned, task, data[train], data[test], run, fields)
            found = remembered(workdir / "vtab.jsonl", measure, task=task.name, test=test, **fields)
            shutil.rmtree(run, ignore_errors=True)  # 3 GB of checkpoints for B/16
            return found

        rate, *others = learning_rates
        if others:
            rate = max(learning_rates, key=lambda rate: accuracy("train", "validation", rate, 0))
        accuracies = [accuracy("both", "test", rate, seed) for seed in seeds]
        medians[task.name] = float(np.median(accuracies))
        rows.append((task.name, f"{medians[task.name]:.2%}", len(data["test"]), rate))
        print(f"{task.name}: {medians[task.name]:.2%}", flush=True)
    for group in (*GROUPS, None):
        names = [task.name for task in VTAB_TASKS.values() if group in (None, task.group)]
        found = [medians[name] for name in names if name in medians]
        if found:
            rows.append((f"mean of {len(found)} of {len(names)} {group or 'tasks'}", f"{np.mean(found):.2%}", "", ""))
    print_table(("task", "accuracy", "test images", "rate"), rows)


if __name__ == "__main__":
    tyro.cli(main)
