"""Results of a long experiment in one JSON file: what was measured once is not measured again."""

import json
from pathlib import Path
from typing import Any

from keras_mixer.files import write_json


class ResumableResults:
    """`{"settings": ..., "results": {key: result}}` on disk, written whole after each result.

    Args:
        path: the file; made with the first result.
        settings: everything that decides the results, as data that JSON knows.

    Raises:
        ValueError: the file is of other settings, or no such file.
    """

    def __init__(self, path, settings: dict[str, Any]):
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        self.results: dict[str, Any] = {}
        if not self.path.is_file():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            found, self.results = content["settings"], content["results"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} holds something else than results of this experiment.") from error
        changed = [key for key in sorted(self.settings | found) if self.settings.get(key) != found.get(key)]
        if changed:
            listed = "; ".join(f"{key}: {found.get(key)!r} there, {self.settings.get(key)!r} now" for key in changed)
            raise ValueError(f"{self.path} is of other settings ({listed}). Nothing was changed; choose another place.")

    def result(self, key, measure):
        """What `measure()` gave for `key`, now or in an earlier run."""
        if key not in self.results:
            self.results[key] = json.loads(json.dumps(measure()))
            content = {"settings": self.settings, "results": self.results}
            write_json(self.path, content)
        return self.results[key]
