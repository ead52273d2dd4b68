import json

import pytest


@pytest.fixture
def write_run(tiny_mixer, tmp_path):
    """Writes the files of a finished run on the digits."""
    results = {"accuracy": 0.875, "top5": 1.0, "loss": 0.123456789, "test_images": 8, "part": "test", "seed": 3}
    results |= {"evaluation_crop": "resize", "image_size": [16, 16], "parameters": 1234, "seconds": 5.2}
    results |= {"recipe": "digits", "backend": "tensorflow", "versions": {"keras-mixer": "1", "keras": "3"}}

    def write(name, class_names, more_results=None, **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        model = tiny_mixer(classes=len(class_names), num_blocks=1)
        model.class_names, model.evaluation_crop = class_names, "resize"
        model.save(folder / "model.keras")
        (folder / "results.json").write_text(json.dumps(results | (more_results or {})))
        (folder / "config.json").write_text(json.dumps({"name": "digits", "data": "digits"} | config))
        return folder

    return write
