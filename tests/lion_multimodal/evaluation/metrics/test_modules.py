"""What all metrics have in common: how they are loaded, what they refuse, and their cards."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.metrics import METRICS, load_metric, metric_folder
from lion_multimodal.evaluation.metrics.java import JavaUnavailableError
from tests.lion_multimodal.evaluation.metrics.pycocoevalcap_scores import AVAILABLE


SECTIONS = ("What it is", "Formula", "Inputs", "Range", "Example", "Limits", "Citation")
REPOSITORY = Path(__file__).parents[4]


def test_there_is_a_folder_for_each_name_and_no_other():
    folders = {path.parent.name for path in metric_folder("cider").parent.glob("*/README.md")}
    assert folders == set(METRICS)


def test_benchmarks_use_metrics_and_headlines_that_are_there():
    wanted = {
        (metric.name, metric.headline)
        for benchmark in BENCHMARKS.values()
        for metric in (*benchmark.metrics.values(), *benchmark.further_metrics)
    }
    assert {name for name, _ in wanted} == set(METRICS)
    for name, headline in wanted:
        assert f'"{headline}"' in load_metric(name).inputs_description


def test_unknown_metrics_are_named():
    with pytest.raises(ValueError, match="metric must be one of cider, .*got 'cyder'"):
        load_metric("cyder")


@pytest.mark.parametrize("name", METRICS)
def test_cards(name):
    card = (metric_folder(name) / "README.md").read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", card, re.MULTILINE) == list(SECTIONS)
    assert f'load_metric("{name}")' in card
    examples = doctest.DocTestParser().get_doctest(card, {}, name, None, None)
    assert len(examples.examples) >= 3
    if name in ("meteor", "spice") and not AVAILABLE:
        pytest.skip("pycocoevalcap and Java are not both there")
    if name == "spice":
        try:
            load_metric(name).compute(predictions=["a dog"], references=[["a dog"]])
        except JavaUnavailableError as error:
            pytest.skip(str(error))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    runner.run(examples, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_loads_offline_from_anywhere_and_leaves_nothing_behind(tmp_path):
    """As somebody would load a metric of the installed package, from a folder of their own."""
    script = "\n".join(
        (
            "import sys, evaluate",
            f"sys.path.insert(0, {str(REPOSITORY)!r})",
            f"for name in {METRICS!r}:",
            f"    module = evaluate.load({str(metric_folder('cider').parent)!r} + '/' + name)",
            "    assert module.name == name, (module.name, name)",
            "inputs = {'predictions': ['a dog runs', 'a cat'], 'references': [['a dog runs'], ['the cat']]}",
            f"metric = evaluate.load({str(metric_folder('bleu'))!r})",
            "print(metric.compute(**inputs, tokenizer='approximation')['BLEU-1'])",
        )
    )
    before = {path for path in metric_folder("cider").parent.rglob("*") if "__pycache__" not in path.parts}
    (tmp_path / "cwd").mkdir()
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path / "home"),
    }
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HF_EVALUATE_OFFLINE": "1"}
    for variable in (
        "HF_MODULES_CACHE",
        "HF_EVALUATE_CACHE",
        "HF_METRICS_CACHE",
        "HF_DATASETS_CACHE",
        "XDG_CACHE_HOME",
    ):
        environment.pop(variable, None)
    finished = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "cwd",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert float(finished.stdout) == pytest.approx(0.8)
    assert not list((tmp_path / "cwd").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"cwd", "cache"}
    assert {path for path in metric_folder("cider").parent.rglob("*") if "__pycache__" not in path.parts} == before


def test_says_which_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lion_multimodal", None)
    with pytest.raises(ImportError, match="pip install lion-multimodal"):
        evaluate.load(str(metric_folder("cider")))


CAPTION = {"predictions": ["a dog"], "references": [["a dog"]]}
CHOICE = {"predictions": [[-1.0, -2.0]], "references": [1]}


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("cider", {**CAPTION, "predictions": []}, "same number of entries, got 0 predictions, 1 references"),
        ("cider", {"predictions": [], "references": []}, "must hold at least one entry"),
        ("cider", {**CAPTION, "references": [["a"], ["b"]]}, "got 1 predictions, 2 references"),
        ("cider", {**CAPTION, "references": [[]]}, r"references\[0\] must hold at least one caption"),
        ("cider", {**CAPTION, "references": ["a dog"]}, r"references\[0\] must be a list, got 'a dog'"),
        ("cider", {**CAPTION, "references": [["a", None]]}, r"references\[0\]\[1\] must be a text, got None"),
        ("cider", {**CAPTION, "references": None}, "references must be a list with an entry for each sample"),
        ("cider", {**CAPTION, "predictions": "a"}, "predictions must be a list with an entry for each sample"),
        ("cider", {**CAPTION, "predictions": [7]}, r"predictions\[0\] must be a text, got 7"),
        ("cider", {**CAPTION, "tokenizer": "ptb"}, "tokenizer must be one of auto, .*got 'ptb'"),
        ("multiple_choice_accuracy", {**CHOICE, "references": [2]}, r"references\[0\] must be the place of one of 2"),
        ("multiple_choice_accuracy", {**CHOICE, "references": [-1]}, r"references\[0\] must be the place of one of 2"),
        ("multiple_choice_accuracy", {**CHOICE, "references": [0.5]}, r"references\[0\] must be a whole number"),
        ("multiple_choice_accuracy", {**CHOICE, "references": ["1"]}, r"references\[0\] must be a whole number"),
        ("multiple_choice_accuracy", {**CHOICE, "predictions": [[]]}, r"predictions\[0\] must hold the log-likelihood"),
        (
            "multiple_choice_accuracy",
            {**CHOICE, "predictions": [[0.0, float("nan")]]},
            r"predictions\[0\]\[1\] must be a finite number, got nan",
        ),
        ("multiple_choice_accuracy", {**CHOICE, "predictions": ["yes"]}, r"predictions\[0\] must be a list, got 'yes'"),
        ("visdial_ranking", CHOICE, "missing: .*relevance"),
        ("mmbench_circular", {**CHOICE, "groups": [1], "categories": ["x"]}, r"groups\[0\] must be a text, got 1"),
    ],
)
def test_wrong_inputs_are_named(name, inputs, message):
    with pytest.raises(ValueError, match=message):
        load_metric(name).compute(**inputs)


def test_arrays_and_tensors_will_do():
    expected = {"accuracy": 0.5, "chance_accuracy": 0.5}
    metric = load_metric("multiple_choice_accuracy")
    scores = [[-1.0, -2.0], [-1.0, -2.0]]
    assert metric.compute(predictions=np.array(scores), references=np.array([0, 1])) == expected
    assert metric.compute(predictions=torch.tensor(scores), references=torch.tensor([0, 1])) == expected
    assert metric.compute(predictions=[np.array(row) for row in scores], references=[np.int64(0), 1]) == expected


def test_samples_can_be_added_one_by_one_and_are_checked():
    metric = evaluate.load(str(metric_folder("exact_match_accuracy")), keep_in_memory=True)
    metric.add(prediction="a", reference="a")
    with pytest.raises(ValueError, match=r"references\[0\] must be a text"):
        metric.add(prediction="b", reference=None)
    metric.add_batch(predictions=["b", "c"], references=["b", "d"])
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3)
