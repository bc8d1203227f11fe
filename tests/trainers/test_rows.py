import json

import PIL.Image
import pytest

from trainers.rows import (
    BadRowError,
    BadRows,
    find_missing_image,
    find_text_problem,
    open_image,
    read_completions,
    read_image_source,
    read_tags,
    read_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a cat ", "a cat"),
        (None, ""),
        ([{"role": "user", "content": "what is it?"}], "what is it?"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}], "what is it?"),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "Be brief.\nHi"),
        (7, "7"),
    ],
)
def test_texts(value, text):
    assert read_text(value) == text


def test_completions_and_tags():
    assert read_completions(["one", " ", "two"]) == ["one", "two"]
    assert read_completions([{"role": "assistant", "content": "a cat"}]) == ["a cat"]
    assert read_completions("") == []
    assert read_tags(["cat ", "dog"]) == "cat, dog"
    assert read_tags([]) == ""
    assert read_tags(None) is None


def test_images(tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.new("RGB", (3, 2), "red").save(path)
    assert open_image({"bytes": path.read_bytes(), "path": None}).size == (3, 2)
    assert open_image({"bytes": None, "path": str(path)}).size == (3, 2)
    assert find_missing_image(str(path)) is None
    assert "does not exist" in find_missing_image({"bytes": None, "path": str(tmp_path / "b.png")})
    assert find_missing_image({"bytes": None, "path": None}) == "has no image"
    with pytest.raises(ValueError, match="cannot be read"):
        open_image({"bytes": b"no picture", "path": None})
    assert read_image_source({"images": [path]}) == path
    with pytest.raises(ValueError, match="2 images"):
        read_image_source({"images": [path, path]})


@pytest.mark.parametrize(
    ("prompt", "answer", "level", "problem"),
    [
        ("what?", "a cat", "auto", None),
        ("", "a cat", "auto", "empty prompt"),
        ("what?", "", "auto", "empty answer"),
        ("what?", "a cat", "pixel_level", "level 'pixel_level'"),
        ("what?", "[1, 2, 3, 4]", "image_level", None),
        ("what?", "[1, 2, 3, 4]", "region_level", "outside"),
        ("where is the cat?", "[0.1,0.2,1.3,0.4]", "auto", "outside"),
    ],
)
def test_text_problems(prompt, answer, level, problem):
    found = find_text_problem(prompt, [answer] if answer else [], level)
    assert (found is None) if problem is None else (problem in found)


def test_bad_rows_are_logged_written_and_counted_once(tmp_path, caplog):
    record = BadRows("skip", tmp_path / "out" / "bad.jsonl")
    record.report("captions", 3, "has no image")
    record.report("captions", 3, "has no image")
    record.report("boxes", 0, "has an empty answer")
    assert [r.getMessage() for r in caplog.records] == [
        "Row 3 of 'captions' has no image. It is skipped.",
        "Row 0 of 'boxes' has an empty answer. It is skipped.",
    ]
    lines = [json.loads(line) for line in record.path.read_text().splitlines()]
    assert lines[0] == {"source": "captions", "index": 3, "problem": "has no image"}
    # Another process, or a resumed run, sees them too.
    assert BadRows("skip", record.path).summary() == {"captions": 1, "boxes": 1}


def test_bad_rows_can_be_fatal():
    with pytest.raises(BadRowError, match="Row 3 of 'captions' has no image"):
        BadRows("fail").report("captions", 3, "has no image")
    with pytest.raises(ValueError, match="`action`"):
        BadRows("ignore")


def test_many_bad_rows_are_all_counted_but_not_all_logged(caplog):
    record = BadRows()
    for index in range(100):
        record.report("captions", index, "has no image")
    assert len(caplog.records) == 21
    assert record.summary() == {"captions": 100}
