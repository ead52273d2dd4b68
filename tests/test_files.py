import pytest

from keras_mixer.files import atomic_write, write_json


def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "new" / "numbers.txt"
    with atomic_write(file) as temporary:
        temporary.write_text("one")
        assert not file.exists()
    with pytest.raises(ZeroDivisionError), atomic_write(file) as temporary:
        temporary.write_text(str(1 / 0))
    assert file.read_text() == "one"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_appears_complete_with_the_usual_permissions(tmp_path):
    with atomic_write(tmp_path / "1") as temporary:
        temporary.mkdir()
        write_json(temporary / "inside.json", {"x": [1, float("nan")]})
        assert not (tmp_path / "1").exists()
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "1").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "1" / "inside.json").read_text() == '{\n  "x": [\n    1,\n    null\n  ]\n}\n'
