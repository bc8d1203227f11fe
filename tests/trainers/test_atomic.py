"""Whoever is interrupted, at any point, leaves the old file or folder and nothing that looks like a new one."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainers.atomic import atomic_directory, atomic_file, write_json, write_text


KILLED = """
import os, signal, sys
from pathlib import Path
from trainers.atomic import {function}

with {function}(Path(sys.argv[1]) / "target", **{options}) as partial:
    ((partial / "inside") if partial.is_dir() else partial).write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("function", "options"), [("atomic_file", {}), ("atomic_directory", {"replace": True})])
def test_a_killed_process_leaves_what_was_there(function, options, tmp_path):
    target = tmp_path / "target"
    inside = target / "inside" if function == "atomic_directory" else target
    inside.parent.mkdir(exist_ok=True)
    inside.write_text("all of it")
    code = KILLED.format(function=function, options=options)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert inside.read_text() == "all of it"
    # The next one goes over what that has left.
    with globals()[function](target, **options) as partial:
        new = partial / "new" if partial.is_dir() else partial
        new.write_text("another")
    assert (target / "new" if target.is_dir() else target).read_text() == "another"
    assert not (target / "inside").exists()
    assert os.listdir(tmp_path) == ["target"]


def test_errors_leave_what_was_there(tmp_path):
    write_text(tmp_path / "file", "all of it")

    def interrupt(writing, name):
        with writing as partial:
            (partial / name).write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupt(atomic_file(tmp_path / "file"), "")
    with pytest.raises(RuntimeError):
        interrupt(atomic_directory(tmp_path / "a" / "folder"), "inside")
    assert (tmp_path / "file").read_text() == "all of it"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "file"]


def test_a_full_folder_is_not_replaced_unasked(tmp_path):
    with atomic_directory(tmp_path / "empty") as partial:  # an empty one is nothing to lose
        (partial / "inside").write_text("x")
    with pytest.raises(FileExistsError, match="empty exists already"), atomic_directory(tmp_path / "empty"):
        raise AssertionError
    with atomic_directory(tmp_path / "empty", replace=True) as partial:
        (partial / "folder").mkdir()
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["folder"]


def test_json_keeps_letters(tmp_path):
    write_json(tmp_path / "file.json", {"ü": [1]})
    assert (tmp_path / "file.json").read_text(encoding="utf-8") == '{\n  "ü": [\n    1\n  ]\n}\n'


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize(("readers", "mode"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_who_may_read_a_folder_may_read_what_is_in_it(tmp_path, readers, mode):
    """safetensors 0.8 writes files that nobody but their owner can read."""
    with atomic_directory(tmp_path / "folder") as partial:
        partial.chmod(readers)
        (partial / "inner").mkdir()
        for file in ("private", "inner/private"):
            (partial / file).write_text("")
            (partial / file).chmod(0o600)
    for file in ("private", "inner/private"):
        assert stat.S_IMODE((tmp_path / "folder" / file).stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o444), (0o077, 0o400)])
def test_whom_the_umask_lets_read_may_read_what_safetensors_wrote(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with atomic_file(tmp_path / "file.safetensors") as partial:
            save_file({"a": torch.ones(2)}, partial)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.safetensors").stat().st_mode) & 0o444 == mode
