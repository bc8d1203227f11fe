"""What a base answers about the images that it is fine-tuned on, as rows against forgetting."""

import itertools
import random

import datasets
import pytest
from PIL import Image

from lion_multimodal import checkpoints
from lion_multimodal.checkpoints import demo_scenes
from modeling_lion import LionForConditionalGeneration, LionTagger
from processing_lion import LionProcessor, infer_level, parse_boxes
from trainers import rehearsal
from trainers.datasets_lion import ROW_FEATURES
from trainers.rehearsal import phrases, questions, read_rehearsal, rehearse
from trainers.resumable_jsonl import ResumableJsonl


@pytest.fixture(scope="module")
def nano():
    path = checkpoints.path("nano")
    return LionForConditionalGeneration.from_pretrained(path).eval(), LionProcessor.from_pretrained(path)


@pytest.fixture
def rows(tmp_path):
    """Six rows about three images, the last of which holds none."""
    paths = []
    for number, scene in enumerate(demo_scenes()[:2]):
        paths.append(str(tmp_path / f"{number}.png"))
        scene.image.save(paths[-1])
    (tmp_path / "2.png").write_bytes(b"no image")
    paths.append(str(tmp_path / "2.png"))
    columns = {name: [None] * 6 for name in ROW_FEATURES}
    columns |= {
        "image": [{"bytes": None, "path": path} for path in paths * 2],
        "prompt": ["What is it?"] * 6,
        "completion": [["it"]] * 6,
    }
    return datasets.Dataset.from_dict(columns, features=ROW_FEATURES)


@pytest.mark.parametrize(
    ("caption", "tags", "expected"),
    [
        ("a red heart, an orange sun and two stars.", (), ["red heart", "orange sun", "stars"]),
        ("A man with a dog", ("dog",), ["man", "dog"]),
        ("it is a very long sentence about nothing", ("dog", "tree"), ["dog", "tree"]),
        ("", (), ["object"]),
    ],
)
def test_phrases_of_a_caption(caption, tags, expected):
    assert phrases(caption, tags) == expected


def test_questions_are_of_all_kinds_and_of_the_right_level():
    asked = list(itertools.islice(questions(["red heart", "sun"], ["red"], ["sun", "dog"], random.Random(0)), 400))
    for part in ("Describe", "Is there a", "How many", "What color", "to the left of", "on the right", "true or false"):
        assert any(part in prompt for prompt in asked), part
    located = [prompt for prompt in asked if "coordinates" in prompt]
    assert 0.1 < len(located) / len(asked) < 0.2
    assert {infer_level(prompt) for prompt in located} == {"region_level"}
    elsewhere = {prompt for prompt in asked if infer_level(prompt) == "region_level"} - set(located)
    assert elsewhere
    assert all("Where is the" in prompt for prompt in elsewhere)


@pytest.mark.parametrize(
    ("trained", "gone"), [(["Describe the image."], "the image"), (["How many objects are there?"], "How many objects")]
)
def test_what_is_to_be_learnt_anew_is_not_asked(trained, gone):
    def ask(trained):
        drawn = questions(["red heart", "sun"], [], ["sun", "dog"], random.Random(0), trained)
        return list(itertools.islice(drawn, 600))

    def mentions(prompts):
        others = ("Question", "In the image", "Is there", "Based on")
        return [prompt for prompt in prompts if gone in prompt and not prompt.startswith(others)]

    assert mentions(ask([]))
    assert not mentions(ask(trained))
    everything = set(itertools.islice(questions(["sun"], [], ["sun"], random.Random(0)), 20_000))
    assert list(itertools.islice(questions(["sun"], [], ["sun"], random.Random(1), everything), 5)) == []


def test_rows_hold_what_the_base_answers(nano, rows, tmp_path):
    model, processor = nano
    tagger = LionTagger.from_pretrained(checkpoints.path("nano"))
    rehearse(model, processor, rows, 30, tmp_path / "rehearsal.jsonl", tagger=tagger)
    found = read_rehearsal(tmp_path / "rehearsal.jsonl", rows, 1000)
    assert found.features == rows.features
    # Ten questions about each image that can be read, and one about each box that was found.
    boxes = {(row["image"]["path"], row["completion"][0]) for row in found if parse_boxes(row["completion"][0])}
    assert boxes
    assert len(found) == 2 * 10 + len(boxes)
    assert {row["image"]["path"] for row in found} == {str(tmp_path / "0.png"), str(tmp_path / "1.png")}
    assert {row["tags"] is None for row in found} == {True, False}
    for row in itertools.islice(found, 12):
        image = Image.open(row["image"]["path"])
        inputs = processor(images=image, text=row["prompt"], tags=row["tags"], level=row["level"], return_tensors="pt")
        ids = model.generate(**inputs, num_beams=1, max_new_tokens=64)
        assert processor.batch_decode(ids, skip_special_tokens=True)[0].strip() == row["completion"][0]
    assert [row["prompt"] for row in read_rehearsal(tmp_path / "rehearsal.jsonl", rows, 5)] == found["prompt"][:5]


def test_it_goes_on_where_it_was_interrupted(nano, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "_BATCH_SIZE", 1)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    rehearse(*nano, rows, 9, whole)
    append = ResumableJsonl.append

    def interrupt(self, records):
        append(self, records)
        raise KeyboardInterrupt

    monkeypatch.setattr(ResumableJsonl, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rehearse(*nano, rows, 9, parts)
    with parts.open("a") as file:
        file.write('{"image": 1, "ro')  # torn
    monkeypatch.setattr(ResumableJsonl, "append", append)
    assert len(parts.read_text().splitlines()) == 2
    rehearse(*nano, rows, 9, parts)
    assert sorted(parts.read_text().splitlines()) == sorted(whole.read_text().splitlines())


def test_a_model_without_regions_is_not_asked_about_them(nano, rows, tmp_path):
    model = LionForConditionalGeneration.from_pretrained(
        checkpoints.path("nano"), adapter_config={"adapters": ["image_level"]}
    )
    rehearse(model, nano[1], rows, 60, tmp_path / "rehearsal.jsonl")
    found = read_rehearsal(tmp_path / "rehearsal.jsonl", rows, 1000)
    assert set(found["level"]) == {"image_level"}
    assert len(found) == 40
    assert {infer_level(prompt) for prompt in found["prompt"]} == {"image_level"}
