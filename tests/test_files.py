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


def test_a_folder_appears_whole_with_the_usual_permissions(tmp_path):
    with atomic_write(tmp_path / "1") as temporary:
        temporary.mkdir()
        (temporary / "inside").write_text("x")
        assert not (tmp_path / "1").exists()
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "1").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "1" / "inside").read_text() == "x"


def test_json_is_plain_text_that_ends_with_a_line(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, float("nan")]})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": [\n    1,\n    null\n  ]\n}\n'
