"""Damaged and incomplete checkpoints, devices that are none: one line that names the file or option."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from lion_multimodal.evaluation.answering import Answerer


SCENE = Path(__file__).parents[3] / "docs" / "images" / "scene.png"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return Path(shutil.copytree(checkpoints.path("nano"), tmp_path / "nano"))


def edit_config(checkpoint: Path, file: str = "config.json", **changes) -> None:
    config = json.loads((checkpoint / file).read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    (checkpoint / file).write_text(json.dumps(config))


def edit_weights(checkpoint: Path, change) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    change(weights)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def to_adapter(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    (checkpoint / "adapter_config.json").write_text("{}")


DAMAGES = {
    "truncated weights": (lambda c: truncate(c / "model.safetensors"), "model.safetensors"),
    "empty weights": (lambda c: (c / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "garbage weights": (lambda c: (c / "model.safetensors").write_bytes(b"garbage" * 99), "model.safetensors"),
    "truncated weights of the tagger": (lambda c: truncate(c / "tagger/model.safetensors"), "tagger"),
    "a missing weight": (
        lambda c: edit_weights(c, lambda w: w.pop("language_projection.weight")),
        "no weights for language_projection.weight",
    ),
    "an unexpected weight": (
        lambda c: edit_weights(c, lambda w: w.update({"stray.weight": torch.ones(1)})),
        "stray.weight",
    ),
    "another number of query tokens": (lambda c: edit_config(c, num_query_tokens=7), "query_tokens"),
    "a list as configuration": (lambda c: (c / "config.json").write_text("[]"), "config.json"),
    "null as configuration": (lambda c: (c / "config.json").write_text("null"), "config.json"),
    "half a configuration": (lambda c: truncate(c / "config.json"), "config.json"),
    "no configuration": (lambda c: (c / "config.json").unlink(), "config.json"),
    "an adapter": (to_adapter, "is an adapter"),
    "an unknown activation": (lambda c: edit_config(c, vision_config__hidden_act="nope"), "nope"),
    "an unknown type of numbers": (lambda c: edit_config(c, dtype="float13"), "float13"),
    "another size of the tagger's images": (
        lambda c: edit_config(c, "tagger/preprocessor_config.json", size={"height": 999, "width": 999}),
        "preprocessor_config.json must be",
    ),
    "another size of images": (
        lambda c: edit_config(c, "processor_config.json", image_processor__size={"height": 999, "width": 999}),
        "`size` of the processor must be",
    ),
    "heads that don't fit": (lambda c: edit_config(c, text_config__num_heads=0), "nano"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(checkpoint, capsys, damage):
    function, named = DAMAGES[damage]
    function(checkpoint)
    status = main(["predict", str(SCENE), "--model", str(checkpoint), "--device", "cpu"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lion: ")]
    assert line.startswith("lion: error: "), line
    assert status == 1
    assert named in line


def test_evaluation_refuses_it_as_well(checkpoint):
    edit_weights(checkpoint, lambda weights: weights.pop("language_projection.weight"))
    with pytest.raises(ValueError, match=r"nano is not whole.*language_projection\.weight"):
        Answerer.from_pretrained(checkpoint, tags="none", device="cpu")


def test_tagging_refuses_it_as_well(checkpoint, capsys):
    weights = load_file(checkpoint / "tagger/model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, checkpoint / "tagger/model.safetensors", {"format": "pt"})
    arguments = ["tag", str(SCENE.parent), "--output", str(checkpoint / "tags.jsonl"), "--device", "cpu"]
    assert main([*arguments, "--model", str(checkpoint)]) == 1
    assert "classifier.weight" in capsys.readouterr().err
    assert not (checkpoint / "tags.jsonl").exists()


@pytest.mark.parametrize("device", ["cuda", "foo", "meta"])
@pytest.mark.parametrize("command", ["predict", "tag", "eval"])
def test_a_device_that_is_none_is_one_line(capsys, tmp_path, command, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is such a device")
    arguments = {
        "predict": [str(SCENE)],
        "tag": [str(SCENE.parent), "--output", str(tmp_path / "tags.jsonl")],
        "eval": ["--model", str(checkpoints.path("nano")), "--benchmark", "pope", "--output", str(tmp_path / "out")],
    }
    assert main([command, *arguments[command], "--device", device]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lion: ")]
    assert line.startswith("lion: error: ")
    assert "--device" in line
    assert device in line


def test_a_fault_of_the_program_says_so(capsys, monkeypatch):
    from lion_multimodal.cli import predict

    def fail(args):
        raise AttributeError("'NoneType' object has no attribute 'x'")

    monkeypatch.setattr(predict, "run", fail)
    assert main(["predict", str(SCENE)]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lion: internal error: AttributeError")
    assert "LION_TRACEBACK=1" in line
    monkeypatch.setenv("LION_TRACEBACK", "1")
    with pytest.raises(AttributeError):
        main(["predict", str(SCENE)])


def test_a_full_disk_is_foreseen(capsys, monkeypatch):
    from lion_multimodal.cli import predict

    def fail(args):
        raise Exception("No space left on device (os error 28)")  # as the tokenizers library has it

    monkeypatch.setattr(predict, "run", fail)
    assert main(["predict", str(SCENE)]) == 1
    assert capsys.readouterr().err == "lion: error: No space left on device (os error 28)\n"


def test_an_empty_source_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tag", "", "--output", "x.jsonl"])
    assert stopped.value.code == 2
    assert "must not be empty" in capsys.readouterr().err


def test_a_panic_of_a_library_is_told_in_a_line(capsys, monkeypatch):
    from lion_multimodal.cli import predict

    class PanicException(BaseException):
        """As pyo3's, which cannot be imported."""

    def fail(args):
        raise PanicException("not a number")

    monkeypatch.setattr(predict, "run", fail)
    assert main(["predict", str(SCENE)]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lion: internal error: PanicException: not a number")
