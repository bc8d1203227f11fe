"""Figures in model cards."""

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from lion_multimodal.evaluation.model_card import CARD_FILE, eval_results, update_card, write_piece
from lion_multimodal.evaluation.report import Report
from tests.lion_multimodal.evaluation.test_report import SETTINGS, evaluated, score


HUB = {"dataset": "lmms-lab/POPE", "config": None, "split": "test", "revision": "abc", "rows": 9000}
POPE = evaluated(
    "pope",
    score(88.123, "random", headline="f1"),
    score(85.0, "popular", headline="f1"),
    source=HUB,
    task="object existence",
)
REPORT = Report(SETTINGS, [evaluated("textcaps", score(104.5, headline="CIDEr"), task="captioning"), POPE])


def results(directory):
    """What huggingface_hub reads from the card, as (data set, configuration, metric) to value."""
    card = ModelCard.load(directory / CARD_FILE)
    found = {(r.dataset_type, r.dataset_config, r.metric_type): r for r in card.data.eval_results}
    assert len(found) == len(card.data.eval_results)
    return found


def test_results():
    caption, random, popular = eval_results(REPORT)
    assert (caption.dataset_type, caption.dataset_name, caption.task_type) == (
        "textcaps",
        "TEXTCAPS, local files",
        "image-to-text",
    )
    assert (caption.metric_type, caption.metric_value, caption.metric_name) == ("cider", 104.5, "CIDEr × 100")
    assert (random.dataset_type, random.dataset_config, random.dataset_split) == ("lmms-lab/POPE", "random", "test")
    assert (random.dataset_revision, random.task_type) == ("abc", "visual-question-answering")
    assert (random.metric_value, popular.metric_value) == (88.12, 85.0)
    assert random.dataset_args == {"num_examples": 1234, "left_out": 9}
    limited = Report(SETTINGS | {"limit": 50}, [POPE])
    assert eval_results(limited)[0].dataset_name == "POPE (random), first 50 examples"


def test_a_card_is_made_and_the_hub_reads_it(tmp_path):
    assert update_card(tmp_path, REPORT) == tmp_path / CARD_FILE
    found = results(tmp_path)
    assert found["lmms-lab/POPE", "random", "f1"].metric_value == 88.12
    assert found["textcaps", None, "cider"].task_name == "Captioning"
    assert ModelCard.load(tmp_path / CARD_FILE).text.strip() == f"# {tmp_path.name}"


def test_a_card_keeps_what_is_not_ours(tmp_path):
    other = evaluated("pope", score(1.0, "adversarial", headline="f1"), source=HUB, task="object existence")
    data = ModelCardData(
        language="en", license="mit", tags=["lion"], model_name="nano", eval_results=eval_results(REPORT)
    )
    text = "# Nano\n\nA text with --- and\n\n---\n\na rule.\n"
    (tmp_path / CARD_FILE).write_text(f"---\n{data.to_yaml()}\n---\n{text}")
    update_card(tmp_path, Report(SETTINGS, [other, evaluated("textcaps", score(99.0, headline="CIDEr"))]))
    card = ModelCard.load(tmp_path / CARD_FILE)
    assert (card.data.license, card.data.language, card.data.tags) == ("mit", "en", ["lion"])
    assert card.text.strip() == text.strip()
    values = {
        (r.dataset_type, r.dataset_config, r.metric_type, r.task_type): r.metric_value for r in card.data.eval_results
    }
    assert values["lmms-lab/POPE", "random", "f1", "visual-question-answering"] == 88.12
    assert values["lmms-lab/POPE", "adversarial", "f1", "visual-question-answering"] == 1.0
    # Again, with the same report: nothing is there twice.
    before = (tmp_path / CARD_FILE).read_text()
    update_card(tmp_path, Report(SETTINGS, [other, evaluated("textcaps", score(99.0, headline="CIDEr"))]))
    assert (tmp_path / CARD_FILE).read_text() == before


def test_a_figure_is_replaced(tmp_path):
    update_card(tmp_path, REPORT)
    again = evaluated("pope", score(90.0, "random", headline="f1"), source=HUB, task="object existence")
    update_card(tmp_path, Report(SETTINGS, [again]))
    found = results(tmp_path)
    assert found["lmms-lab/POPE", "random", "f1"].metric_value == 90.0
    assert found["lmms-lab/POPE", "popular", "f1"].metric_value == 85.0
    assert len(found) == 3


def test_a_piece_for_a_card_that_is_elsewhere(tmp_path):
    file = write_piece(tmp_path, Report(SETTINGS | {"model": "you/your-lion"}, [POPE]))
    (index,) = yaml.safe_load(file.read_text().split("---")[1])["model-index"]
    assert index["name"] == "your-lion"
    assert len(index["results"]) == 2


def test_nothing_to_write(tmp_path):
    with pytest.raises(ValueError, match="no figures"):
        update_card(tmp_path, Report(SETTINGS, []))
    with pytest.raises(ValueError, match="there is none at"):
        update_card(tmp_path / "nowhere", REPORT)
