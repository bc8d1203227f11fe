"""Files that are written whole or not at all."""

import pytest

from trainers.atomic import atomic_file, read_json, write_text


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    write_text(tmp_path / "a.json", "{}")
    with atomic_file(tmp_path / "a.json") as partial:
        partial.write_text("[1]")
        assert (tmp_path / "a.json").read_text() == "{}"
    assert read_json(tmp_path / "a.json") == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, existing):
    if existing:
        write_text(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match="No space left"):
        _fill_the_disk(tmp_path / "a.txt")
    assert [file.read_text() for file in tmp_path.iterdir()] == (["old"] if existing else [])


def _fill_the_disk(file):
    with atomic_file(file) as partial:
        partial.write_text("ne")
        raise OSError(28, "No space left on device")


def test_a_torn_json_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        read_json(tmp_path / "a.json")
