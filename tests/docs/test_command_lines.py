"""Every command line of the documents runs as it is written, on little data; what takes long is at least understood."""

import argparse
import importlib.util
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lion_multimodal.cli.main import build_parser, main
from tests.docs.documents import ROOT, Command, command_lines


COMMANDS = command_lines()

# Taken to the end by other tests at a small size, or no work of this project: here, their arguments are read.
LONG = (
    "lion app",  # tests/lion_multimodal/app, tests/browser
    "accelerate launch",  # tests/trainers/test_distributed.py
    "lion data prepare",  # tests/trainers/sources
    "lion finetune",  # tests/trainers/test_finetune.py
    "lion merge",
    "lion eval --check-overlap",  # tests/lion_multimodal/evaluation/test_overlap.py
    "lion serve",  # tests/lion_multimodal/serving
    "lion train all --config laboratory",  # tests/trainers/test_run.py
    "lion train all --config xl",
    "lion train all --config xxl",
    "python -m laboratory",  # tests/laboratory
    "python -m lmms_eval",  # tests/lion_multimodal/evaluation/lmms_eval
)
# What makes a command short, and stands in for datasets on the Hub and for the sizes of the released files.
ADDED = {
    "lion eval": ["--limit", "1", "--device", "cpu", "--data-dir", "{benchmark_data}"],
    "lion convert official": ["--config", "lion_config.json"],
    "lion train stage2": ["output_dir=out"],
}
REPLACED = {"REPO": "you/your-lion", "REPO_OR_DIR": "you/your-lion", "DIR": "some_folder", "FILE": "some_file"}


class Understood(BaseException):
    """The arguments of a program have been read."""


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_lines_run(command: Command, official, names_on_the_hub, benchmark_data, monkeypatch, capsys):
    run(command, benchmark_data, monkeypatch)


def run(command: Command, benchmark_data: Path, monkeypatch) -> None:
    words = [REPLACED.get(word, word) for word in command.words]
    program = words[0]
    if any(" ".join(words).startswith(long) for long in LONG):
        understand(words, monkeypatch)
    elif program == "lion":
        run_lion(words, benchmark_data)
    elif program == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif program in ("cd", "export", "pip", "git", "curl", "hf", "uv", "docker"):
        check_other(words)
    elif words[:2] == ["python", "-c"]:
        compile(words[2], str(command), "exec")
    else:
        pytest.fail(f"{command}: how is this to be tested? {command.text}")


def run_lion(words: list[str], benchmark_data: Path) -> None:
    added = [more for start, more in ADDED.items() if " ".join(words).startswith(start)]
    more = [word.format(benchmark_data=benchmark_data) for words_ in added for word in words_]
    if words[1] == "eval":  # the fixtures' evaluation is of other settings
        shutil.rmtree(words[words.index("--output") + 1], ignore_errors=True)
    if "--model" in words and words[words.index("--model") + 1].startswith("LION-FlanT5-XL"):
        make_converted(Path(words[words.index("--model") + 1]))
    if words[1:3] == ["train", "stage2"]:
        assert main(["train", "stage1", "--config", "recipe.yaml", "output_dir=out/small"]) == 0
        more = ["output_dir=out/small"]
    assert main([*words[1:], *more]) == 0


def make_converted(folder: Path) -> None:
    """What the conversion makes of the authors' files, where a command goes on with it."""
    checkpoint = folder.parent if folder.name == "tagger" else folder
    files = ["--checkpoint", "LION-FlanT5-XL.pth", "--vision", "eva_vit_g.pth", "--text-model", "flan-t5-xl"]
    files += ["--qformer-tokenizer", "bert-base-uncased", "--ram", "ram_swin_large_14m.pth", "--ram-tags", "ram/data"]
    options = ["--config", "lion_config.json", "--dtype", "float32", "--output", str(checkpoint)]
    assert main(["convert", "official", *files, *options]) == 0


def check_other(words: list[str]) -> None:
    """Programs that are not this project's: what they name of it must be there."""
    if words[0] == "pip" and "[" in words[-1]:
        import tomllib

        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(words[-1].partition("[")[2].partition("]")[0].split(",")) <= set(declared)


def understand(words: list[str], monkeypatch) -> None:
    """Start a program and stop it when it has read its arguments."""
    if words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        arguments = launch_command_parser().parse_args([("0" if word == "N" else word) for word in words[2:]])
        if arguments.config_file:
            assert Path(arguments.config_file).is_file()
        words = ["python", "-m", arguments.training_script, *arguments.training_script_args]
    if words[0] == "lion" or words[2] == "lion_multimodal.cli.main":
        arguments = build_parser().parse_args(words[1:] if words[0] == "lion" else words[3:])
        assert callable(arguments.run)
        return
    assert words[:2] == ["python", "-m"], words
    if importlib.util.find_spec(words[2].partition(".")[0]) is None:
        pytest.skip(f"{words[2]} is not installed")
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        parse_args(self, *args, **kwargs)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", words[2:])
    with pytest.raises(Understood):
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)


def test_commands_are_found():
    text = [command.text for command in COMMANDS]
    assert len(text) >= 25
    assert any(line.startswith("lion predict") for line in text)
    assert any("--ram-tags ram/data" in line for line in text)  # joined lines


def test_a_wrong_command_is_noticed(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n    lion predict street.jpg --nonsense\n\n```bash\npython -m laboratory.speed --nonsense\n```\n"
    )
    commands = command_lines(page)
    assert [command.line for command in commands] == [3, 6]
    for command in commands:
        with pytest.raises(SystemExit):
            run(command, tmp_path, monkeypatch)
