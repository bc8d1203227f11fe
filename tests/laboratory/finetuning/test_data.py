from laboratory.finetuning.data import KNOWN_TASKS, write_all
from trainers.row_formats import read_rows


def test_the_folders_are_ones_that_people_might_have(tmp_path):
    folder = write_all(tmp_path, rows=24, test_rows=2)
    assert read_rows(folder / "question").summary() == "read as questions and answers: 24 rows"
    word = read_rows(folder / "word")
    assert word.summary().startswith("read as referring expressions with boxes, boxes as xywh_pixels")
    assert len(word.rows) == 24
    assert all("blossom" in row["prompt"] + row["completion"][0] for row in word.rows)
    old = read_rows(folder / "old")
    assert len(old.rows) == 2 * len(KNOWN_TASKS)
    assert {row["level"] for row in old.rows} == {"image_level", "region_level"}
    for task in KNOWN_TASKS:
        assert len(read_rows(folder / "known" / task).rows) == 2
    # No image is trained and tested on.
    images = {part: {file.name for file in (folder / part).rglob("*.png")} for part in ("question", "word", "old")}
    tested = {file.name for part in ("question_test", "word_test", "known") for file in (folder / part).rglob("*.png")}
    assert not tested & set().union(*images.values())
