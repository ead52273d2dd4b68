import pytest

from keras_mixer.paper.resumable_results import ResumableResults


def test_what_was_measured_is_not_measured_again(tmp_path):
    calls = []
    for _ in range(2):
        journal = ResumableResults(tmp_path / "j.json", {"steps": (1, 2)})
        assert journal.result("a", lambda: calls.append(1) or [0.5]) == [0.5]
    assert calls == [1]


def test_other_settings_or_files_are_refused(tmp_path):
    ResumableResults(tmp_path / "j.json", {"steps": 3}).result("a", lambda: 1)
    with pytest.raises(ValueError, match=r"other settings \(steps: 3 there, 4 now\)"):
        ResumableResults(tmp_path / "j.json", {"steps": 4})
    for text in ("no json", "[]", "{}"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="something else"):
            ResumableResults(tmp_path / "other.json", {})
