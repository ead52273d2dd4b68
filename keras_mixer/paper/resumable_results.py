"""Results of a long experiment in one JSON file, so that an interrupted experiment resumes."""

import json
from pathlib import Path
from typing import Any

from keras_mixer.fields import differences
from keras_mixer.files import refuse_address, write_json


class ResumableResults:
    """`{"settings": ..., "results": {key: result}}` on disk, written atomically after each result.

    Args:
        path: the file; created with the first result.
        settings: everything that determines the results, as JSON data.

    Raises:
        ValueError: the file has other settings, is not such a file, or has an address instead of a path.
    """

    def __init__(self, path, settings: dict[str, Any]):
        refuse_address(path)
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        self.results: dict[str, Any] = {}
        if not self.path.is_file():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            stored, self.results = dict(content["settings"]), content["results"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} contains something else than results of this experiment.") from error
        changed = differences(stored, self.settings)
        if changed:
            raise ValueError(f"{self.path} has other settings ({changed}). Nothing was changed. Choose another path.")

    def result(self, key, measure):
        """The result of `measure()` for `key`, computed now or read from an earlier run."""
        if key not in self.results:
            self.results[key] = json.loads(json.dumps(measure()))
            write_json(self.path, {"settings": self.settings, "results": self.results})
        return self.results[key]
