import pytest

import lion_checkpoints


def test_shipped_checkpoints_are_found_and_others_refused(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    (tmp_path / "__pycache__").mkdir()
    monkeypatch.setattr(lion_checkpoints, "files", lambda package: tmp_path)
    assert lion_checkpoints.available() == ["tiny"]
    assert lion_checkpoints.path("tiny") == tmp_path / "tiny"
    for name in ("huge", "__pycache__", "../tiny", ""):
        with pytest.raises(ValueError, match=r"`name` must be a checkpoint .*: tiny; got"):
            lion_checkpoints.path(name)
