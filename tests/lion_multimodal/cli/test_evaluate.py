"""`lion eval`, with the checkpoint that ships, on the benchmarks' synthetic counterparts."""

import importlib.util
import json
import shutil

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from laboratory.counterparts.synthetic import write_synthetic
from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from lion_multimodal.evaluation.benchmarks import BENCHMARKS


NANO = checkpoints.path("nano")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    write_synthetic(directory, 1)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A copy of the checkpoint, whose card may be written."""
    return shutil.copytree(NANO, tmp_path_factory.mktemp("checkpoint") / "nano")


def test_all_benchmarks(data, checkpoint, tmp_path, capsys):
    """The command of the issue: every benchmark, from its rows to the model card."""
    arguments = ["eval", "--model", str(checkpoint), "--benchmark", "all", "--data-dir", str(data)]
    arguments += ["--output", str(tmp_path), "--device", "cpu"]
    assert main([*arguments, "--update-card"]) == 0
    printed = capsys.readouterr().out
    for definition in BENCHMARKS.values():
        assert f"| {definition.title} " in printed
        assert (tmp_path / "predictions" / f"{definition.name}.jsonl").stat().st_size > 0
    assert "not evaluated" not in printed
    assert f"report    {tmp_path / 'report.md'}" in printed

    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["name"] for entry in report["benchmarks"]] == list(BENCHMARKS)
    assert all(entry["error"] is None and entry["left_out"] == 0 for entry in report["benchmarks"])
    assert {score["part"] for entry in report["benchmarks"] for score in entry["scores"]} == {
        *("", "direct_answer", "multiple_choice", "random", "popular", "adversarial"),
    }
    text = (tmp_path / "report.md").read_text()
    for definition in BENCHMARKS.values():
        assert f"### {definition.title}\n" in text
        assert f"](sheets/{definition.name}.png)" in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 1000

    results = ModelCard.load(checkpoint / "README.md").data.eval_results
    assert len(results) == sum(len(entry["scores"]) for entry in report["benchmarks"])
    assert {result.dataset_type for result in results} == set(BENCHMARKS)


def test_what_cannot_be_evaluated_does_not_stop_the_rest(data, tmp_path, capsys, caplog):
    folder = tmp_path / "data"
    shutil.copytree(data / "vsr", folder / "vsr")
    (image,) = (folder / "vsr" / "images").iterdir()
    row = json.loads((folder / "vsr" / "test.jsonl").read_text())
    rows = [row, {**row, "image": "broken.png"}, {**row, "label": None}]
    (folder / "vsr" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (image.parent / "broken.png").write_bytes(image.read_bytes()[:100])
    (folder / "gqa").mkdir()
    (folder / "gqa" / "rows.jsonl").write_text(json.dumps({"id": "1", "question": "?"}))
    arguments = ["--model", str(NANO), "--benchmark", "gqa,vsr,pope", "--data-dir", str(folder), "--device", "cpu"]
    assert main(["eval", *arguments, "--output", str(tmp_path / "out"), "--tags", "none"]) == 0
    printed = capsys.readouterr().out
    assert "| VSR | accuracy, % | " in printed
    assert printed.splitlines()[2].endswith("| 1 | 2 |")
    assert "gqa is not evaluated: gqa: no schema fits" in printed
    assert "lacks the columns answer, imageId" in printed
    assert "pope is not evaluated: pope: there is no folder data/pope" in printed
    assert "1/broken.png is left out: the image of 1/broken.png cannot be read" in caplog.text
    assert "row 2" in caplog.text
    assert "'label' is empty" in caplog.text
    text = (tmp_path / "out" / "report.md").read_text()
    assert "- VSR: 2\n" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "popes"], "unknown benchmark popes; did you mean pope?"),
        (["--benchmark", "pope", "--model", "no/such/checkpoint"], "no/such/checkpoint"),
        (["--benchmark", "pope", "--limit", "0"], "limit must be at least 1, got 0"),
        (["--benchmark", "pope", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--benchmark", "pope", "--data-dir", "nowhere"], "data_dir must be a folder, and there is none at nowhere"),
        (["--benchmark", "pope", "--data-dir", "."], "none of the benchmarks could be evaluated; the first: pope"),
        (["--benchmark", "visdial"], "visdial is read from a local folder only; give one with --data-dir"),
    ],
)
def test_an_error_is_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    fields = ["eval", "--model", str(NANO), "--output", str(tmp_path / "out"), "--device", "cpu", "--tags", "none"]
    assert main([*fields, *arguments]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lion: error: ")
    assert message in line


def test_missing_packages_are_named(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "datasets" else find(name, *rest)
    )
    assert main(["eval", "--model", str(NANO), "--benchmark", "vsr", "--output", str(tmp_path)]) == 1
    assert 'lion eval needs datasets: pip install "lion-multimodal[evaluation]"' in capsys.readouterr().err


def test_an_adapter_is_evaluated_on_top_of_its_base(data, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    from modeling_lion import LionForConditionalGeneration

    lora = LoraConfig(target_modules=r"language_model.*\.(q|v)", init_lora_weights=False)
    get_peft_model(LionForConditionalGeneration.from_pretrained(NANO), lora).save_pretrained(tmp_path / "adapter")
    arguments = ["eval", "--model", str(NANO), "--benchmark", "vsr", "--data-dir", str(data), "--device", "cpu"]
    arguments += ["--tags", "none", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--adapter", str(tmp_path / "adapter")]) == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())["evaluation"]
    assert settings["adapter"] == "adapter"
    assert len(settings["adapter_sha256"]) == 64
    capsys.readouterr()
    assert main(arguments) == 1  # the base alone has other answers
    assert "give another output folder" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "b"), "--adapter", str(NANO)]) == 1
    assert "The adapter" in capsys.readouterr().err


def test_other_tags_need_another_folder(data, tmp_path, capsys):
    arguments = ["eval", "--model", str(NANO), "--benchmark", "vsr", "--data-dir", str(data), "--device", "cpu"]
    arguments += ["--output", str(tmp_path), "--tags"]
    assert main([*arguments, "none"]) == 0
    assert main([*arguments, "column"]) == 1
    assert "tags was 'none' and is 'column'); give another output folder" in capsys.readouterr().err


def test_the_card_of_a_repo_on_the_hub_is_left_beside_the_report(data, tmp_path, capsys, monkeypatch):
    """The checkpoint has no directory here: what would go into its card is a file."""
    from lion_multimodal.cli import evaluate as command
    from lion_multimodal.evaluation.report import Report
    from tests.lion_multimodal.evaluation.test_report import SETTINGS, evaluated

    (tmp_path / "out").mkdir()
    args = type("Arguments", (), {"model": "you/your-lion", "output": str(tmp_path / "out")})
    command._update_card(args, Report(SETTINGS | {"model": "you/your-lion"}, [evaluated()]))
    assert "metadata for the card of you/your-lion" in capsys.readouterr().out
    assert "model-index" in (tmp_path / "out" / "model_card.md").read_text()
