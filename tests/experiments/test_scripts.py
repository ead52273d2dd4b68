"""Every script of experiments/ in small form: each draws its figure or prints its table (marker `experiments`)."""

import numpy as np
import pytest
from PIL import Image
from tfds_files import write_tfds

from experiments import data_size, linear_cost, pareto, permutation, teacher, token_weights, tradeoff, untied, vtab
from experiments.training import Training

pytestmark = pytest.mark.experiments

SMALL = Training("smoke", image_size=32, patch_size=8, training_images=100, steps=4, points=2, seeds=(0,))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of the three networks, and the figure of the experiment that trained them."""
    folder = tmp_path_factory.mktemp("data_size")
    training = Training("smoke", image_size=32, steps=3, points=1, seeds=(0,))
    data_size.main(folder / "d.png", folder / "runs", training, (0.05,), ("mixer", "resnet", "vit"))
    return folder


def drawn(*paths):
    return all(np.ptp(np.asarray(Image.open(path).convert("L"))) > 100 for path in paths)


def test_data_size_and_tradeoff(runs, capsys):
    assert drawn(runs / "d.png")
    folders = sorted((runs / "runs").glob("*_72_images_seed_0"))
    assert [folder.name.split("_")[0] for folder in folders] == ["Mixer", "ResNet", "ViT"]
    tradeoff.main(folders, runs / "t.png", seconds=0.1)
    assert drawn(runs / "t.png")
    assert "| ViT_72_images_seed_0 |" in capsys.readouterr().out


def test_permutation_and_untied(tmp_path, capsys):
    for _ in range(2):  # the second time from the file
        permutation.main(tmp_path / "p.png", SMALL)
    assert drawn(tmp_path / "p.png")
    assert capsys.readouterr().out.count("| ResNet, all pixels |") == 2
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 6
    untied.main(tmp_path / "u.png", SMALL, groups=(1, 4))
    assert drawn(tmp_path / "u.png")
    assert "| B/16 | 59,880,472 | 65,320,360 | 1,450,678,504 |" in capsys.readouterr().out


def test_token_weights_and_stem(runs, tmp_path, capsys):
    (run,) = (runs / "runs").glob("Mixer_72_images_seed_0")
    token_weights.main(run, tmp_path / "w.png", blocks=(0, 9))
    token_weights.main(run / "model.keras", tmp_path / "s.png", stem=True)
    assert drawn(tmp_path / "w.png", tmp_path / "s.png")
    assert capsys.readouterr().out.count("\n") == 3  # one block exists


def test_linear_cost_and_pareto(tmp_path, capsys):
    linear_cost.main(tmp_path / "l.png", (32, 64), hidden_dim=64, tokens_mlp_dim=8, seconds=0.02, training=True)
    pareto.main(tmp_path / "p.png", own=("mine,80.5,900,",))
    assert drawn(tmp_path / "l.png", tmp_path / "p.png")
    assert "| 1.000 |" in capsys.readouterr().out


def test_vtab(tiny_mixer, tmp_path, capsys):
    """One task, whose answer is the color of the image."""
    colors = np.eye(3, dtype=np.uint8) * 200
    examples = [{"image": np.broadcast_to(colors[i % 3], (32, 32, 3)), "label": i % 3} for i in range(60)]
    write_tfds(tmp_path, "svhn_cropped", {"train": examples, "test": examples[:9]})
    tiny_mixer(classes=5, num_blocks=1).save(tmp_path / "start.keras")
    options = {"data_dir": str(tmp_path), "tasks": ("svhn", "resisc45"), "learning_rates": (1e-9, 0.3), "steps": 12}
    for _ in range(2):  # the second time from the file
        vtab.main(tmp_path / "start.keras", tmp_path / "vtab", batch_size=32, image_size=16, **options)
        printed = capsys.readouterr().out
        assert "| svhn | 100.00% | 9 | 0.3 |" in printed
        assert "| mean of 1 of 19 tasks | 100.00% |" in printed
        assert "resisc45 is not measured. Prepare its data: tfds build resisc45" in printed
    assert len((tmp_path / "vtab" / "vtab.jsonl").read_text().splitlines()) == 3
    assert [item.name for item in (tmp_path / "vtab").iterdir()] == ["vtab.jsonl"]  # runs are removed


def test_teacher(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(teacher, "CHANGES", teacher.CHANGES | {"data": "digits", "warmup_steps": 1})
    teacher.main(tmp_path / "run", epochs=1)
    teacher.main(tmp_path / "mean.keras", average=(tmp_path / "run", tmp_path / "run"))
    teacher.CHANGES["teacher"] = str(tmp_path / "mean.keras")
    teacher.main(tmp_path / "student", epochs=1)
    assert capsys.readouterr().out.count("%\n") == 2
