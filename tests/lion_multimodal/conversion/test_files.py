"""Weights tensor by tensor: whatever users hold is read, nothing in it is run, and little memory is taken."""

import json
import os
from collections import OrderedDict

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lion_multimodal.conversion import files as conversion_files
from lion_multimodal.conversion.files import (
    PickleFile,
    TensorInfo,
    find_weights,
    open_weights,
    parse_size,
    write_safetensors,
    write_shards,
)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        "half": torch.randn(3).half(),
        "ids": torch.arange(6).reshape(2, 3),
        "brain": torch.randn(5, 7).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "transposed": torch.randn(4, 3).T,
        "flags": torch.tensor([True, False, True]),
    }


def infos(tensors) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def assert_equal(found, tensors) -> None:
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_what_is_written_is_what_safetensors_reads(tmp_path, tensors):
    file = tmp_path / "model.safetensors"
    write_safetensors(file, infos(tensors), tensors.__getitem__, {"why": "a test"})
    assert_equal(load_file(file), tensors)
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "why": "a test"}
    again = open_weights(file)
    assert again.tensors == infos(tensors)
    assert_equal({name: again.read(name) for name in again.tensors}, tensors)


def test_parts_of_a_tensor_and_tensors_with_two_names_are_written(tmp_path):
    whole = torch.arange(6.0)
    tensors = {"first": whole[:2], "last": whole[2:], "columns": whole.reshape(2, 3)[:, 1:], "again": whole[:2]}
    write_safetensors(tmp_path / "file", infos(tensors), tensors.__getitem__)
    assert_equal(load_file(tmp_path / "file"), tensors)


def test_a_tensor_that_is_not_as_announced_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="a is not"):
        write_safetensors(
            tmp_path / "file", {"a": TensorInfo(torch.Size([2]), torch.float32)}, lambda _: torch.zeros(3)
        )


@pytest.mark.parametrize(("size", "count"), [(10**9, 1), (200, 3), (1, 5)])
def test_shards(tmp_path, size, count):
    tensors = {f"t{k}": torch.full((20,), float(k)) for k in range(5)}
    files = write_shards(tmp_path, infos(tensors), tensors.__getitem__, size)
    assert len(files) == count
    assert [path.name for path in find_weights(tmp_path)] == files
    found = {}
    for file in files:
        found |= load_file(tmp_path / file)
    assert_equal(found, tensors)
    if count == 1:
        assert files == ["model.safetensors"]
    else:
        assert files[0] == f"model-00001-of-{count:05d}.safetensors"
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"] == {"total_parameters": 100, "total_size": 400}
        for name, file in index["weight_map"].items():
            assert name in open_weights(tmp_path / file).tensors


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older than torch 1.6"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_files_of_torch_save(tmp_path, tensors, zipped, wrapper):
    content = OrderedDict(tensors)
    content = {wrapper: content, "optimizer": {"state": {}}, "epoch": 3} if wrapper else content
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    file = open_weights(tmp_path / "file.pth")
    assert file.tensors == infos(tensors)
    assert_equal({name: file.read(name) for name in file.tensors}, tensors)
    file.release()
    assert_equal({name: file.read(name) for name in file.tensors}, tensors)


class _Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, zipped):
    proof = tmp_path / "proof"
    torch.save({"a": torch.ones(1), "b": _Malice(proof)}, tmp_path / "f.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"f\.pth is not loaded, because it holds more than tensors"):
        open_weights(tmp_path / "f.pth")
    assert not proof.exists()


def test_damaged_and_other_files(tmp_path, tensors):
    torch.save(tensors, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    save_file({"a": torch.ones(100)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"a": 3}, tmp_path / "number.pth")
    for name in ("cut.pth", "cut.safetensors", "page.pth", "empty.pth", "list.pth", "number.pth"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            open_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_weights(tmp_path / "nothing.pth")


def test_an_index_that_names_a_lacking_shard(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(ValueError, match=r"lacks model-1\.safetensors"):
        find_weights(tmp_path)
    assert find_weights(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_reading_a_file_takes_the_memory_of_a_part_of_it(tmp_path, monkeypatch, kind):
    megabyte = 2**20
    monkeypatch.setattr(conversion_files, "_BYTES_PER_MAPPING", 8 * megabyte)
    tensors = {f"t{k}": torch.full((megabyte,), k, dtype=torch.uint8) for k in range(80)}
    path = tmp_path / f"file.{kind}"
    if kind == "pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    del tensors
    file = open_weights(path)
    before, most = _mapped_memory(), 0
    for k, name in enumerate(file.tensors):
        assert file.read(name).unique().numel() == 1, k
        most = max(most, _mapped_memory() - before)
    assert most < 24 * megabyte


def _mapped_memory() -> int:
    """Bytes of files that this process holds in memory."""
    memory = psutil.Process().memory_info()
    if not hasattr(memory, "shared"):
        pytest.skip("this system doesn't tell mapped pages from others")
    return memory.shared


def test_a_mapping_outlives_its_file_object_for_who_still_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion_files, "_BYTES_PER_MAPPING", 1)
    torch.save({"a": torch.arange(1000), "b": torch.ones(3)}, tmp_path / "file.pth")
    file = PickleFile(tmp_path / "file.pth")
    first, second = file.read("a"), file.read("b")
    file.release()
    assert first.sum() == 499500
    assert second.sum() == 3


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500 MB", 5 * 10**8), ("2GiB", 2**31), ("1.5kb", 1500), ("7B", 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["5", "GB", "-1GB", "0GB", "5 gigabytes"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="a size such as 5GB"):
        parse_size(text)
