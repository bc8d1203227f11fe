import pytest

from lion_multimodal import checkpoints


def test_shipped_checkpoints_are_found_and_others_refused(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    (tmp_path / "__pycache__").mkdir()
    monkeypatch.setattr(checkpoints, "files", lambda package: tmp_path)
    assert checkpoints.available() == ["tiny"]
    assert checkpoints.path("tiny") == tmp_path / "tiny"
    for name in ("huge", "__pycache__", "../tiny", ""):
        with pytest.raises(ValueError, match=r"`name` must be a checkpoint .*: tiny; got"):
            checkpoints.path(name)
