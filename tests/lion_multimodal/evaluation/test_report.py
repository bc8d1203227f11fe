"""The report, as JSON and as Markdown."""

import json

import pytest

from lion_multimodal.evaluation import published
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.report import (
    BenchmarkReport,
    Report,
    headline_tables,
    hide_paths,
    package_versions,
    to_markdown,
)
from lion_multimodal.evaluation.scoring import Score


def score(value=50.0, part="", **changes):
    fields = {
        "part": part,
        "metric": "vqa_accuracy",
        "headline": "accuracy",
        "value": value,
        "scale": 100,
        "interval": (40.0, 60.0),
        "samples": 1234,
        "figures": {"accuracy": value / 100, "f1": 0.25, "count": 7.0},
        "published": {"LION-4B": 51.08},
    }
    return Score(**{**fields, **changes})


def evaluated(name="okvqa", *scores, **changes):
    fields = {
        "name": name,
        "title": name.upper(),
        "task": "question answering",
        "why": "Because.",
        "scores": list(scores) or [score()],
        "examples": 1240,
        "answered": 1234,
        "left_out": 9,
        "reasons": [{"id": f"q{number}", "reason": "its picture is broken"} for number in range(9)],
        "source": {"folder": "data/okvqa", "rows": 1243},
        "prompts": {"vqa": "Question: {question} Short answer:"},
        "decoding": {"generates": True, "ranks": True, "num_beams": 5, "max_new_tokens": 10, "min_new_tokens": None}
        | {"length_penalty": -1.0, "repetition_penalty": 1.5, "normalize_candidates": False},
        "tagged": 1200,
        "run": {"seconds": 12.34, "answered": 4, "batch_size": 16, "processes": 2, "device": "cpu"},
    }
    return BenchmarkReport(**{**fields, **changes})


SETTINGS = {"model": "nano", "revision": None, "dtype": "float32", "tags": "tagger", "limit": None}


def test_json_keeps_everything(tmp_path):
    report = Report(SETTINGS, [evaluated(), BenchmarkReport("gqa", "GQA", error="no data set")])
    report.write(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert [BenchmarkReport.from_dict(entry) for entry in content["benchmarks"]] == report.benchmarks
    assert content["settings"] == SETTINGS
    assert content["versions"] == package_versions()
    assert {"python", "torch", "transformers", "datasets"} <= set(content["versions"])
    assert report.evaluated == report.benchmarks[:1]
    assert not list(tmp_path.glob("*.partial*"))


def test_markdown_says_what_was_found_and_how():
    text = to_markdown(
        Report(SETTINGS | {"limit": 1240}, [evaluated(), BenchmarkReport("gqa", "GQA", error="no column answer")])
    )
    for part in (
        "# Evaluation of nano",
        "| OKVQA | accuracy, % | **50.00** | 40.00–60.00 | 51.08 | 1,234 | 9 |",
        "Only the first 1,240 examples of each benchmark were asked.",
        "## Not evaluated\n\n- GQA: no column answer",
        "| OKVQA | f1 | 0.2500 | – |",
        "| OKVQA | count | 7 | – |",
        "- OKVQA: 9\n  - q0: its picture is broken",
        "- Prompt `vqa`: `Question: {question} Short answer:`",
        "beam search of 5, at most 10 tokens, length penalty -1, repetition penalty 1.5",
        "Candidates are ranked by the log-likelihood",
        "- Questions: 1,234 of 1,240 answered, 1,200 with tags",
        "- Last run: 4 questions in 12.3 s, batches of 16, 2 processes on cpu",
        "| torch | ",
    ):
        assert part in text
    assert "![" not in text
    assert "![The first images of OKVQA](sheets/okvqa.png)" in to_markdown(Report({}, [evaluated()], sheet=True))


def test_published_figures_stand_beside_ours():
    details = score(88.0, "random", headline="f1", published={"LION": 88.33}, published_figures={"LION": {"f1": 1.0}})
    details.published_figures["LION"]["accuracy"] = 88.97
    text = to_markdown(Report(SETTINGS, [evaluated("pope", details)]))
    assert "| POPE (random) | f1, % | **88.00** | 40.00–60.00 | 88.33 |" in text
    assert "| POPE (random) | accuracy, % | 88.00 | LION 88.97 |" in text


def test_a_table_for_each_set_of_models():
    caption = score(450.0, headline="CIDEr", interval=None)
    parts = evaluated("aokvqa", score(1.0, "direct_answer"), score(2.0, "multiple_choice", published={}))
    other = evaluated("pope", score(3.0, "random", published={"LION": 88.33}))
    first, second = headline_tables([evaluated("textcaps", caption), parts, other]).split("\n\n")
    assert first.splitlines()[0].count("|") == 8
    assert "| TEXTCAPS | CIDEr × 100 | **450.00** | – | 51.08 |" in first
    # A part without figures of its own stands with the others, and shows none.
    assert "| AOKVQA (multiple choice) | accuracy, % | **2.00** | 40.00–60.00 | – | 1,234 | 9 |" in first
    assert "| POPE (random) | accuracy, % | **3.00** |" in second


def test_the_tokenizer_of_captions_is_named():
    caption = score(450.0, headline="CIDEr", notes={"tokenizer": "an approximation", "METEOR": "not computed: no Java"})
    text = to_markdown(Report(SETTINGS, [evaluated("textcaps", caption), evaluated("flickr30k", caption)]))
    assert text.count("Captions were made into words by an approximation.") == 1
    assert "| TEXTCAPS | METEOR | not computed: no Java | – |" in text


def test_cells_with_bars_do_not_break_tables():
    text = to_markdown(Report(SETTINGS | {"model": "a|b"}, [evaluated()]))
    assert "| model | a\\|b |" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no folder /home/me/data/okvqa", "no folder okvqa"),
        ("'/home/me/my data/a b.png' is not there", "'a b.png' is not there"),
        ("see https://host/a/b/c.png", "see https://host/a/b/c.png"),
        ("nlphuji/flickr30k, split a/b", "nlphuji/flickr30k, split a/b"),
        (r"C:\Users\me\x.png is broken", "x.png is broken"),
        ("~/data/x.png", "x.png"),
    ],
)
def test_local_paths_are_hidden(text, shown):
    assert hide_paths(text, ["/home/me/my data/a b.png"]) == shown
    assert hide_paths({"a": [text, 3, None]}, ["/home/me/my data/a b.png"]) == {"a": [shown, 3, None]}


# As the paper prints them; another copy than the one in the package.
IMAGE_LEVEL = {
    "LION-4B": "85.57 138.20 104.87 51.08 59.98 49.50 54.91 72.96 50.02",
    "LION-12B": "87.12 139.25 108.76 57.33 60.87 51.56 54.89 73.77 50.42",
    "InstructBLIP T5-XL (re-run)": "83.71 135.47 104.17 47.38 56.12 46.34 52.47 69.93 48.75",
    "InstructBLIP T5-XXL (re-run)": "85.79 138.63 105.44 53.02 59.38 47.74 53.18 68.46 50.41",
}
REGION_LEVEL = {
    "Shikra-13B": ("87.83 91.11 81.81 82.89 87.79 74.41 82.64 83.16", 83.96),
    "LION-4B": ("89.73 92.29 84.82 83.60 88.72 77.34 85.69 85.63", 85.98),
    "LION-12B": ("89.80 93.02 85.57 83.95 89.22 78.06 85.52 85.74", 86.36),
    "LION-4B (zero-shot)": ("57.89 56.07 58.40 46.38 45.29 47.50 64.74 63.56", 54.98),
    "LION-12B (zero-shot)": ("58.54 56.41 59.36 45.93 45.73 47.89 66.12 64.69", 55.58),
}


def test_published_figures():
    names = list(BENCHMARKS)
    for model, figures in IMAGE_LEVEL.items():
        for name, figure in zip(names[:9], figures.split(), strict=True):
            (part,) = BENCHMARKS[name].published.values()
            assert part[model] == float(figure)
    for model, (figures, average) in REGION_LEVEL.items():
        own = [BENCHMARKS[name].published[""][model] for name in names[9:17]]
        assert own == [float(figure) for figure in figures.split()]
        assert sum(own) / len(own) == pytest.approx(average, abs=0.006)  # the paper's own mean
    assert {part: figures["LION"] for part, figures in BENCHMARKS["pope"].published.items()} == {
        "random": 88.33,
        "popular": 85.94,
        "adversarial": 84.71,
    }
    for figures in published.POPE_DETAILS.values():
        precision, recall = figures["precision"], figures["recall"]
        assert figures["f1"] == pytest.approx(2 * precision * recall / (precision + recall), abs=0.01)
    with pytest.raises(ValueError, match="no published figures for 'mme'"):
        published.published_figures("mme")
