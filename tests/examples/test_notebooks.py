"""Every notebook in `examples/` runs from its first cell to its last."""

import json
import sys
import tempfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb"))


def run(name: str) -> dict:
    """The variables of a notebook after all of its cells have run."""
    content = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))
    variables: dict = {"__name__": "__main__"}
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "notebooks are kept without outputs"
            exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), variables)
    return variables


@pytest.fixture(autouse=True)
def at_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the notebooks leave their folders for people to look at
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


def test_ask():
    variables = run("ask")
    assert len(variables["answers"]) == 2
    assert variables["together"][1] == variables["answers"][1]
    assert variables["scores"].shape == (1, 2)
    best = ["yes", "no"][variables["scores"][0].argmax()]
    assert best == variables["answers"][1]


def test_ground():
    variables = run("ground")
    assert len(variables["found"]["boxes"]) == 1
    assert variables["named"] == f"the {variables['name']}"


def test_evaluate():
    pytest.importorskip("evaluate")
    scores = run("evaluate")["scores"]
    assert {title for title, _, _ in scores} >= {"POPE"}
    assert all(0 <= value <= 100 for _, _, value in scores)


def test_convert_official():
    assert run("convert_official")["status"] == 0


def test_finetune():
    variables = run("finetune")
    assert variables["answer"] == "yes"
    assert (variables["merged"] / "model.safetensors").is_file()


def test_every_notebook_has_a_test():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(NOTEBOOKS) <= tested
