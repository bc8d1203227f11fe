"""One question about many files."""

import csv
import json

import pytest

from lion_multimodal import checkpoints
from lion_multimodal.app import batch
from lion_multimodal.app.session import PageError
from lion_multimodal.engine import LionEngine


@pytest.fixture(scope="module")
def engine():
    return LionEngine.from_pretrained(device="cpu")


@pytest.fixture
def files(tmp_path):
    """Ten scenes, with a file among them that is none."""
    found = []
    for number, scene in enumerate(checkpoints.demo_scenes()):
        found.append(tmp_path / f"scene_{number}.png")
        scene.image.save(found[-1])
    (tmp_path / "broken.png").write_bytes(b"no image")
    return [*found[:3], tmp_path / "broken.png", *found[3:]]


def answered(engine, files, *args, **kwargs):
    return [row for some in batch.answer_files(engine, files, *args, **kwargs) for row in some]


def test_rows_come_in_the_order_of_the_files_and_broken_ones_are_named(engine, files):
    parts = list(batch.answer_files(engine, files, ""))
    assert [len(part) for part in parts] == [8, 3]
    rows = [row for part in parts for row in part]
    assert [row.image for row in rows] == [file.name for file in files]
    assert [row.image for row in rows if row.problem] == ["broken.png"]
    assert rows[3].problem.startswith("broken.png holds no readable image")
    assert rows[0].answer.text == "a red umbrella, an orange umbrella, a red flower and a blue umbrella."


def test_options_reach_the_questions(engine, files):
    (row,) = answered(engine, files[:1], "Where is the orange umbrella?")
    assert row.answer.level == "region_level"
    assert row.answer.boxes
    (row,) = answered(engine, files[:1], "Where is the orange umbrella?", "image_level", with_tags=False)
    assert (row.answer.level, row.answer.tags) == ("image_level", None)


def test_files_to_download_hold_all_of_it(engine, files, tmp_path):
    rows = answered(engine, files[2:4], "Where is the anchor?")
    batch.write_csv(rows, tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(encoding="utf-8-sig", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert [row["image"] for row in read] == ["scene_2.png", "broken.png"]
    assert json.loads(read[0]["boxes"]) == rows[0].answer.boxes
    assert read[1]["problem"] == rows[1].problem
    batch.write_jsonl(rows, tmp_path / "answers.jsonl")
    records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records[0]["boxes"] == rows[0].answer.boxes
    assert records[1] == {"image": "broken.png", "problem": rows[1].problem}


def test_a_folder_of_nothing_but_broken_files_is_answered_too(engine, files):
    (row,) = answered(engine, [files[3]], "")
    assert row.answer is None


@pytest.mark.parametrize(
    ("count", "prompt", "message"),
    [(0, "", "Choose images or a folder first"), (501, "", "up to 500 files, got 501"), (1, "x" * 1001, "has 1001")],
)
def test_what_is_too_little_or_too_much_is_refused(engine, files, count, prompt, message):
    with pytest.raises(PageError, match=message):
        answered(engine, files[:1] * count, prompt)
