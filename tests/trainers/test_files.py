import json
import shutil
import stat

import pytest
import torch
from safetensors.torch import save_file

from trainers.files import find_checkpoint_problem, find_last_checkpoint, read_result, write_whole


def make_checkpoint(directory, step):
    checkpoint = directory / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"a": torch.zeros(8)}, checkpoint / "adapter_model.safetensors")
    torch.save({"b": torch.zeros(8)}, checkpoint / "optimizer.pt")
    torch.save({"c": 1}, checkpoint / "rng_state.pth")
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return checkpoint


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda c: (c / "trainer_state.json").unlink(), "trainer_state.json is missing or torn"),
        (lambda c: (c / "trainer_state.json").write_text('{"global_st'), "trainer_state.json is missing or torn"),
        (lambda c: (c / "trainer_state.json").write_text(""), "trainer_state.json is missing or torn"),
        (lambda c: (c / "adapter_model.safetensors").unlink(), "no weights"),
        (lambda c: cut(c / "adapter_model.safetensors"), "adapter_model.safetensors is torn"),
        (lambda c: (c / "adapter_model.safetensors").write_bytes(b""), "adapter_model.safetensors is torn"),
        (lambda c: cut(c / "optimizer.pt"), "optimizer.pt is torn"),
        (lambda c: cut(c / "rng_state.pth"), "rng_state.pth is torn"),
    ],
)
def test_an_incomplete_checkpoint_is_passed_over(tmp_path, caplog, harm, problem):
    older, newest = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    assert find_last_checkpoint(tmp_path) == str(newest)
    harm(newest)
    assert problem in find_checkpoint_problem(newest)
    assert find_last_checkpoint(tmp_path) == str(older)
    assert "checkpoint-10 is incomplete and is passed over" in caplog.text
    shutil.rmtree(older)
    assert find_last_checkpoint(tmp_path) is None


def test_each_of_several_processes_needs_its_random_state(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 4)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    assert "rng_state_1.pth is missing" in find_checkpoint_problem(checkpoint, num_processes=2)
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    assert find_checkpoint_problem(checkpoint, num_processes=2) is None


def test_shards_are_all_needed(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 4)
    (checkpoint / "adapter_model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert "model-00002-of-00002.safetensors is missing" in find_checkpoint_problem(checkpoint)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_whole(path, "{}")
    assert path.read_text() == "{}"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    def fail(file):
        file.write_text('{"half')
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert path.read_text() == "{}"
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("content", ["", '{"stage": "sta', "[1]", "null"])
def test_a_torn_result_is_none(tmp_path, caplog, content):
    path = tmp_path / "stage_result.json"
    assert read_result(path) is None
    assert not caplog.records
    path.write_text(content)
    assert read_result(path) is None
    assert "stage_result.json is torn" in caplog.text
