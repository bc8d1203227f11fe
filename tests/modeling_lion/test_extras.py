"""What needs an extra says so, and says which, wherever it is asked for."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from modeling_lion.extras_lion import needs_extra


ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

# Every command and every import that cannot do without an extra, in one process: torch takes seconds to import.
REFUSED = """
import sys

from tests.packaging.use_core import EXTRAS, Hiding

sys.meta_path = [Hiding(finder, EXTRAS) for finder in sys.meta_path]
from lion_multimodal.cli.main import main

def refused(use, *expected):
    try:
        use()
    except ImportError as error:
        message = str(error)
        assert type(error) is ImportError and all(text in message for text in expected), message
    else:
        raise AssertionError(expected)

def name(module, attribute):
    return lambda: getattr(__import__(module, fromlist=["_"]), attribute)

TRAIN, EVALUATION = 'pip install "lion-multimodal[train]"', 'pip install "lion-multimodal[evaluation]"'
refused(name("trainers", "LionSFTTrainer"), "needs", TRAIN)
refused(name("trainers", "LionSFTConfig"), "LionSFTConfig needs trl", TRAIN)
refused(name("trainers", "build_dataset"), "build_dataset needs", TRAIN)
refused(name("trainers.run", "run_all"), "needs", TRAIN)
refused(name("trainers.tagging", "tag_images"), "Tagging", "needs", TRAIN)
refused(name("modeling_lion", "LionAdapterConfig"), "PEFT method needs peft", TRAIN)
refused(lambda: __import__("trainers.plots").plots.plot_losses([{"loss": 1.0, "step": 1}], "losses.png"), "plot", TRAIN)
refused(name("lion_multimodal.evaluation", "evaluate"), "needs", EVALUATION)
refused(lambda: name("lion_multimodal.evaluation", "load_metric")()("cider"), "needs datasets", EVALUATION)
assert name("lion_multimodal.evaluation", "BENCHMARKS")()  # which benchmarks there are can be asked without

commands = (
    ["app"],
    ["eval", "--model", "m", "--benchmark", "pope", "--output", "out"],
    ["tag", ".", "--output", "tags.jsonl"],
    ["train", "all", "--config", "xl_one_gpu"],
)
for command in commands:
    assert main(command) == 1

# A command that does not look for its packages beforehand.
from lion_multimodal.cli import demo

demo.run = lambda args: __import__("datasets")
assert main(["demo"]) == 1
"""


def test_each_command_and_import_names_its_extra():
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    messages = [line for line in done.stderr.splitlines() if line.startswith("lion: error: ")]
    assert [re.findall(r'lion (\w+) needs .*: pip install "lion-multimodal\[(\w+)\]"$', line) for line in messages] == [
        [("app", "app")],
        [("eval", "evaluation")],
        [("tag", "train")],
        [("train", "train")],
        [("demo", "train")],
    ]


def test_named_extras_exist():
    named = set()
    for package in ("lion_multimodal", "modeling_lion", "trainers"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            named |= set(re.findall(r'needs_extra\(\s*"([^"]+)"', text))
            named |= {name for list_ in re.findall(r"lion-multimodal\[([a-z,-]+)\]", text) for name in list_.split(",")}
    assert {"train", "evaluation", "lmms-eval", "captions"} <= named
    assert named <= set(EXTRAS)


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "surely_missing").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r'It needs surely_missing: pip install "lion-multimodal\[train\]"'):
        with needs_extra("train", "It", "surely_missing"):
            pytest.fail("was entered")


def test_other_import_errors_stay_what_they_are():
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'torch\.surely_missing'$"):
        with needs_extra("train", "It"):
            import torch.surely_missing  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'trainers\.surely_missing'$"):
        with needs_extra("train", "It"):
            import trainers.surely_missing  # noqa: F401
    with pytest.raises(ZeroDivisionError):
        with needs_extra("train", "It"):
            1 / 0  # noqa: B018
