"""Caption metrics against pycocoevalcap: its frozen figures always, the package itself where it is installed."""

from __future__ import annotations

import json
import logging
import random

import pytest

from lion_multimodal.evaluation.metrics import java, load_metric
from lion_multimodal.evaluation.metrics.captions import JAVA_TOKENIZER, tokenize_captions
from tests.lion_multimodal.evaluation.metrics.caption_samples import captions, images, mutilated, prose
from tests.lion_multimodal.evaluation.metrics.pycocoevalcap_scores import AVAILABLE, GOLDEN, pycocoevalcap_scores


IN_PYTHON = {"cider": ["CIDEr"], "bleu": ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"], "rouge_l": ["ROUGE-L"]}
HEADLINES = {"cider": "CIDEr", "bleu": "BLEU-4", "rouge_l": "ROUGE-L", "meteor": "METEOR"}

with_pycocoevalcap = pytest.mark.skipif(not AVAILABLE, reason="pycocoevalcap and Java are not both there")


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda program: None)


@pytest.mark.parametrize("name", IN_PYTHON)
def test_equal_pycocoevalcap_on_its_tokens(golden, name):
    result = load_metric(name).compute(**golden["tokens"], tokenizer="whitespace", per_sample=True)
    for key in IN_PYTHON[name]:
        assert result[key] == pytest.approx(golden["figures"][key], abs=1e-6)
    assert result["per_sample"] == pytest.approx(golden["per_sample"][HEADLINES[name]], abs=1e-6)
    assert "blanks" in result["tokenizer"]


@pytest.mark.parametrize("name", IN_PYTHON)
def test_equal_pycocoevalcap_without_java(golden, name, no_java):
    inputs = {key: golden[key] for key in ("predictions", "references")}
    result = load_metric(name).compute(**inputs, tokenizer="approximation")
    for key in IN_PYTHON[name]:
        assert result[key] == pytest.approx(golden["figures"][key], abs=1e-6)


def test_tokens_without_java_are_those_of_the_golden_file(golden):
    words = tokenize_captions(golden["predictions"], golden["references"], "approximation")
    assert words.predictions == golden["tokens"]["predictions"]
    assert words.references == golden["tokens"]["references"]


def test_says_that_it_approximates(no_java, caplog):
    inputs = {"predictions": ["a dog"], "references": [["a dog"]]}
    with caplog.at_level(logging.WARNING):
        result = load_metric("cider").compute(**inputs)
    assert result["tokenizer"].startswith("approximation")
    assert "3.4.1" in result["tokenizer"]
    assert "without Java" in caplog.text
    with pytest.raises(java.JavaUnavailableError):
        load_metric("cider").compute(**inputs, tokenizer="java")


def test_a_java_that_fails_is_named(monkeypatch, tmp_path):
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\necho 'No Java runtime present' >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    jar = tmp_path / "any.jar"
    jar.touch()
    monkeypatch.setattr(java.shutil, "which", lambda name: str(program))
    monkeypatch.setattr("lion_multimodal.evaluation.metrics.captions.find_file", lambda path: jar)
    # Not among captions that other tests have had tokenized.
    inputs = {"predictions": ["a dog that no other test has"], "references": [["a dog"]]}
    result = load_metric("cider").compute(**inputs)
    assert result["tokenizer"].startswith("approximation")
    assert "No Java runtime present" in result["tokenizer"]


@pytest.mark.parametrize("name", ["meteor", "spice"])
def test_programs_in_java_say_what_is_missing(no_java, name):
    with pytest.raises(java.JavaUnavailableError, match=f"{name.upper()} needs Java and the package pycocoevalcap.*: "):
        load_metric(name).compute(predictions=["a dog"], references=[["a dog"]])


def test_spice_says_how_to_fetch_its_parser(monkeypatch, tmp_path):
    (tmp_path / "spice").mkdir()
    (tmp_path / "spice" / "spice-1.0.jar").touch()

    def find_spec(name):
        return type("Specification", (), {"origin": "__init__.py", "submodule_search_locations": [str(tmp_path)]})

    monkeypatch.setattr(java.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(java.shutil, "which", lambda program: "/bin/java")
    inputs = {"predictions": ["a dog"], "references": [["a dog"]]}
    with pytest.raises(java.JavaUnavailableError, match=r"stanford-corenlp-3\.6\.0\.jar.*get_stanford_models"):
        load_metric("spice").compute(**inputs, tokenizer="approximation")


def test_spice_reads_what_its_program_writes(monkeypatch, tmp_path):
    """The program stands in for SPICE's, whose parser is too large to be here: it checks the question and answers."""
    for file in ("spice-1.0.jar", "lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar"):
        path = tmp_path / "package" / "spice" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    program = tmp_path / "java"
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import json, os, sys\n"
        "arguments = sys.argv[1:]\n"
        "assert os.path.exists(arguments[arguments.index('-jar') + 1]), os.getcwd()\n"
        "question = arguments[arguments.index('-out') - 1]\n"
        "rows = json.load(open(question))\n"
        "assert [row['test'] for row in rows] == ['a dog', 'two cats'], rows\n"
        "assert rows[1]['refs'] == ['a cat', 'cats'], rows\n"
        "figures = {row['image_id']: 0.25 * (row['image_id'] + 1) for row in rows}\n"
        "scores = [{'image_id': name, 'scores': {'All': {'f': figure}}} for name, figure in figures.items()]\n"
        "json.dump(scores[::-1], open(arguments[arguments.index('-out') + 1], 'w'))\n",
        encoding="utf-8",
    )
    program.chmod(0o755)

    def find_spec(name):
        return type(
            "Specification", (), {"origin": "__init__.py", "submodule_search_locations": [str(tmp_path / "package")]}
        )

    monkeypatch.setattr(java.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(java.shutil, "which", lambda name: str(program))
    inputs = {"predictions": ["A dog.", "Two cats."], "references": [["a dog"], ["A cat", "cats"]]}
    result = load_metric("spice").compute(**inputs, tokenizer="approximation", per_sample=True)
    assert result["per_sample"] == [0.25, 0.5]
    assert result["SPICE"] == 0.375


def test_better_captions_score_higher(golden):
    references = golden["references"][:30]
    same = [group[0] for group in references]
    wrong = same[1:] + same[:1]
    for name in IN_PYTHON:
        key = HEADLINES[name]
        metric = load_metric(name)
        high, low = (
            metric.compute(predictions=predictions, references=references, tokenizer="approximation")[key]
            for predictions in (same, wrong)
        )
        assert high > 2 * low


def test_order_of_images_does_not_matter(golden):
    order = list(range(len(golden["tokens"]["predictions"])))
    random.Random(0).shuffle(order)
    shuffled = {key: [golden["tokens"][key][place] for place in order] for key in ("predictions", "references")}
    for name in IN_PYTHON:
        key = HEADLINES[name]
        result = load_metric(name).compute(**shuffled, tokenizer="whitespace", per_sample=True)
        assert result[key] == pytest.approx(golden["figures"][key], abs=1e-9)
        assert result["per_sample"] == pytest.approx([golden["per_sample"][key][place] for place in order], abs=1e-9)


@with_pycocoevalcap
@pytest.mark.parametrize("make", [captions, mutilated, prose])
def test_equal_pycocoevalcap_itself(make):
    predictions, references = images(make(120, seed=31), seed=32)
    expected = pycocoevalcap_scores(predictions, references)
    for name, headline in HEADLINES.items():
        result = load_metric(name).compute(predictions=predictions, references=references, per_sample=True)
        assert result["tokenizer"] == JAVA_TOKENIZER
        for key in IN_PYTHON.get(name, [headline]):
            assert result[key] == pytest.approx(expected["figures"][key], abs=1e-6)
        assert result["per_sample"] == pytest.approx(expected["per_sample"][headline], abs=1e-6)


@with_pycocoevalcap
def test_golden_file_is_what_pycocoevalcap_gives(golden):
    found = pycocoevalcap_scores(golden["predictions"], golden["references"])
    assert found["tokens"] == golden["tokens"]
    assert found["figures"] == pytest.approx(golden["figures"], abs=1e-9)


@with_pycocoevalcap
@pytest.mark.parametrize("ends", ["\r", "\x85", "\u2028", "\x0b"])
def test_line_breaks_within_captions_do_not_shift_them(ends):
    words = tokenize_captions([f"one{ends}two", "three"], [["a"], [f"{ends}b{ends}"]], "java")
    assert words.predictions == ["one two", "three"]
    assert words.references == [["a"], ["b"]]
