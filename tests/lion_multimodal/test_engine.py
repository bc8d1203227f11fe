"""The engine answers as the pipeline does, whatever it is asked at once."""

import threading
from pathlib import Path

import pytest

from lion_multimodal import asking
from lion_multimodal.engine import LionEngine, Question


SCENE = Path(__file__).parents[2] / "docs" / "images" / "scene.png"
PROMPTS = ["What is in the image?", "Where is the red star?", "How many objects are there?", "Describe the image."]
FEW = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def pipe():
    return asking.load_pipeline(device="cpu")


@pytest.fixture(scope="module")
def engine(pipe):
    return LionEngine(pipe)


@pytest.fixture(scope="module")
def image(engine):
    return engine.encode([engine.prepare(SCENE)])[0]


def test_mixed_levels_in_one_batch_are_answered_as_the_pipeline_answers_each(pipe, engine, image):
    questions = [Question(prompt) for prompt in PROMPTS] + [Question(PROMPTS[0], tags=["star"], level="region_level")]
    answers = engine.answer([image] * 5, questions, **FEW)
    assert {answer.level for answer in answers} == {"image_level", "region_level"}
    for question, answer in zip(questions, answers):
        alone = pipe(str(SCENE), prompt=question.prompt, tags=question.tags, level=question.level, **FEW)[0]
        assert answer.text == alone["generated_text"]
        assert answer.boxes == alone.get("boxes", [])
    assert answers[0].tags == ", ".join(image.tags)
    assert answers[4].tags == "star"


def test_tags_are_left_out_where_they_are_not_wanted(engine):
    prepared = engine.prepare(SCENE, tag=False)
    assert prepared.tagger_pixel_values is None
    image = engine.encode([prepared, engine.prepare(SCENE)])
    assert image[0].tags is None
    assert image[1].tags
    answers = engine.answer(image, [Question(), Question(tags=False)], **FEW)
    assert [answer.tags for answer in answers] == [None, None]
    assert answers[0].text == answers[1].text


def test_an_answer_says_whether_it_came_to_its_end(engine, image):
    long, cut = engine.answer([image], [Question()])[0], engine.answer([image], [Question()], max_new_tokens=2)[0]
    assert (long.finished, cut.finished) == (True, False)
    assert cut.answer_tokens == 2 < long.answer_tokens


def test_a_streamed_answer_is_that_of_one_beam(engine, image):
    whole = engine.answer([image], [Question(PROMPTS[3])], num_beams=1)[0].text
    pieces = list(engine.stream(image, Question(PROMPTS[3])))
    assert "".join(pieces).strip() == whole
    assert len(pieces) > 1


def test_closing_a_stream_ends_its_generation(engine, image):
    threads = threading.active_count()
    stream = engine.stream(image, Question(PROMPTS[3]), min_new_tokens=40)
    next(stream)
    stream.close()
    assert threading.active_count() == threads


def test_an_error_of_a_streamed_answer_comes_out(engine, image):
    with pytest.raises(ValueError, match="level must be"):
        list(engine.stream(image, Question("What?", level="elsewhere")))


def test_candidates_are_scored(engine, image):
    scores = engine.score(image, Question("Is there a star?"), ["yes", "no"])
    assert len(scores) == 2
    assert all(score < 0 for score in scores)


def test_images_and_questions_must_be_as_many(engine, image):
    with pytest.raises(ValueError, match="one for each question, got 1 for 2"):
        engine.answer([image], [Question(), Question()])
    assert engine.answer([], []) == []
    assert engine.encode([]) == []
