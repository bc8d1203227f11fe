"""The page on evaluation is made from the definitions and from a report."""

import pytest

from laboratory.counterparts import nano_evaluation
from laboratory.counterparts.nano_evaluation import PAGE, definitions_section, figures_section, replace_section
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.report import Report
from tests.lion_multimodal.evaluation.test_report import SETTINGS, evaluated, score


def test_the_page_describes_the_benchmarks_that_there_are():
    """If not: `python -m laboratory.counterparts.nano_evaluation --definitions`."""
    section = definitions_section(list(BENCHMARKS.values()))
    page = PAGE.read_text(encoding="utf-8")
    assert replace_section(page, "definitions", section) == page
    for benchmark in BENCHMARKS.values():
        assert benchmark.name in section
        assert benchmark.why in section
        assert benchmark.sources[0].path in section


def test_the_page_has_a_figure_for_each_benchmark():
    table = PAGE.read_text(encoding="utf-8").partition("<!-- figures -->")[2].partition("<!-- end of figures -->")[0]
    for benchmark in BENCHMARKS.values():
        assert table.count(f"| {benchmark.title} ") == max(1, len(benchmark.metrics), len(benchmark.published))


def test_the_table_of_figures():
    chosen = score(75.0, metric="multiple_choice_accuracy", figures={"accuracy": 0.75, "chance_accuracy": 0.25})
    caption = score(450.0, headline="CIDEr", metric="cider", interval=None, notes={"tokenizer": "an approximation"})
    settings = SETTINGS | {"weights_sha256": "abcdef0123456789"}
    text = figures_section(Report(settings, [evaluated("vsr", chosen), evaluated("textcaps", caption)]), 100)
    assert "| VSR | accuracy, % | 75.0 | 40.0–60.0 | chance accuracy 0.250 | 1,234 |" in text
    assert "| TEXTCAPS | CIDEr × 100 | 450.0 | – | – | 1,234 |" in text
    assert "2,468 questions about 100 rows of each benchmark, 18 left out" in text
    assert "Weights abcdef012345 (" in text
    assert "Captions were made into words by an approximation." in text


def test_sections():
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert replace_section(page, "x", "new\n") == "a\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nb\n"
    assert replace_section(replace_section(page, "x", "new"), "x", "new") == replace_section(page, "x", "new")
    with pytest.raises(ValueError, match="must hold the markers <!-- y --> and <!-- end of y -->"):
        replace_section(page, "y", "new")


def test_definitions_alone_leave_the_figures(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- figures -->\nkept\n<!-- end of figures -->\n<!-- definitions -->\noutdated\n<!-- end of definitions -->\n"
    )
    monkeypatch.setattr(nano_evaluation, "PAGE", page)
    nano_evaluation.main(["--definitions"])
    text = page.read_text()
    assert "kept" in text
    assert "outdated" not in text
    assert "### MMBench" in text


def test_figures_of_a_checkpoint(tmp_path, monkeypatch):
    """All of it, on two small benchmarks; repeated, it goes on with what is there."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- figures -->\n<!-- end of figures -->\n<!-- definitions -->\n<!-- end of definitions -->\n",
    )
    small = {name: BENCHMARKS[name] for name in ("iconqa", "refcoco_plus_testB")}
    monkeypatch.setattr(nano_evaluation, "PAGE", page)
    monkeypatch.setattr(nano_evaluation, "IMAGE", tmp_path / "picture.jpg")
    monkeypatch.setattr(nano_evaluation, "BENCHMARKS", small)
    monkeypatch.setattr(nano_evaluation, "_SHOWN", tuple(small))
    arguments = ["--rows", "2", "--output", str(tmp_path / "out"), "--device", "cpu"]
    nano_evaluation.main(arguments)
    text = page.read_text()
    assert "| IconQA | accuracy, % | " in text
    assert "| RefCOCO+ testB | accuracy, % | " in text
    assert (tmp_path / "picture.jpg").stat().st_size > 1000
    nano_evaluation.main(arguments)
    first, second = (part.partition("\n\n")[0] for part in (text, page.read_text()))
    assert first == second
