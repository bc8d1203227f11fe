"""lmms-eval's requests, answered by the checkpoint that ships."""

import io
import logging

import pytest
from PIL import Image

from laboratory.world.scene import COLORS
from lion_multimodal import checkpoints
from lion_multimodal.evaluation.answering import Answerer
from lion_multimodal.evaluation.lmms_eval_lion.request_answerer import RequestAnswerer, content_id, cut_before
from processing_lion.prompts_lion import format_prompt
from tests.lion_multimodal.evaluation.lmms_eval.requests import generate_request, scene_rows, scenes, score_requests


NANO = checkpoints.path("nano")
SCENES = scenes(5)
ROWS = scene_rows(SCENES)
DATA = {task: {"test": ROWS} for task in ("words", "boxes", "choices")}
GREEDY = {"max_new_tokens": 24, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"]}
COUNT = "How many objects are there?\nAnswer the question using a single word or phrase."
REC = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the "
    "region this sentence describes: "
)


@pytest.fixture(scope="module")
def loaded() -> Answerer:
    return Answerer.from_pretrained(NANO, device="cpu")


@pytest.fixture
def answering(loaded):
    """Makes answerers of requests of one checkpoint."""

    def make(tags="none", batch_size=16, rows=DATA, **options) -> RequestAnswerer:
        answerer = Answerer(loaded.model, loaded.processor, loaded.tagger, tags=tags, batch_size=batch_size)
        return RequestAnswerer(answerer, rows, progress=False, **options)

    return make


@pytest.fixture
def encoded(loaded, monkeypatch):
    """How many images are encoded at once, as it happens."""
    numbers = []
    encode = loaded.model.encode_images

    def count(pixels, *arguments, **options):
        numbers.append(len(pixels))
        return encode(pixels, *arguments, **options)

    monkeypatch.setattr(loaded.model, "encode_images", count)
    return numbers


def expression(number: int) -> str:
    return f"the {SCENES[number].objects[0].name}"


def mixed_requests() -> list:
    """Two tasks in turns, each with its own options, about the same images."""
    short = {**GREEDY, "max_new_tokens": 8}
    pairs = [
        (generate_request(COUNT, number, short), generate_request(REC + expression(number), number, GREEDY, "boxes"))
        for number in range(len(ROWS))
    ]
    return [request for pair in pairs for request in pair]


def one_by_one(loaded, instruction, image, task, tags=None, **options) -> str:
    inputs = loaded.processor(images=image, text=instruction, level=task, tags=tags, return_tensors="pt")
    ids = loaded.model.generate(**inputs, do_sample=False, min_length=0, **options)
    return loaded.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def test_answers_stand_where_their_requests_do(loaded, answering):
    found = answering().generate(mixed_requests())
    options = {"num_beams": 1, "repetition_penalty": loaded.model.generation_config.repetition_penalty}
    for number, row in enumerate(ROWS):
        count = format_prompt("vqa", question="How many objects are there?")
        place = format_prompt("rec", expression=expression(number))
        assert found[2 * number] == one_by_one(loaded, count, row["image"], "image_level", max_new_tokens=8, **options)
        assert found[2 * number + 1] == one_by_one(
            loaded, place, row["image"], "region_level", max_new_tokens=24, **options
        )
    assert found[::2] == [str(len(scene.objects)) for scene in SCENES]
    assert all(box.startswith("[") and box.endswith("]") for box in found[1::2])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batch_size_changes_nothing(answering, batch_size):
    assert answering(batch_size=batch_size).generate(mixed_requests()) == answering().generate(mixed_requests())


def test_a_image_is_encoded_once_wherever_it_is_asked_about(answering, encoded):
    # As in POPE: all images, then all of them again, in copies; twice over for repeats.
    requests = [generate_request(COUNT, number, GREEDY) for _ in range(3) for number in range(len(ROWS))]
    found = answering(batch_size=2).generate([*requests, *requests])
    assert encoded == [2, 2, 1]
    assert found == 6 * [str(len(scene.objects)) for scene in SCENES]


def test_stop_strings_end_answers(answering):
    request = generate_request(REC + expression(0), 0, GREEDY, "boxes")
    (whole,) = answering().generate([request])
    stopped = generate_request(REC + expression(0), 0, {**GREEDY, "until": "]"}, "boxes")
    assert answering().generate([stopped]) == [whole.removesuffix("]")]
    assert cut_before(" one\n\ntwo; three", ["; ", "\n\n"]) == "one"
    assert cut_before("one", []) == "one"


def test_the_checkpoints_own_decoding_where_a_task_says_nothing(loaded, answering, monkeypatch):
    used = []
    answer = Answerer.answer
    monkeypatch.setattr(
        Answerer,
        "answer",
        lambda self, groups, decoding, **options: (used.append(decoding), answer(self, groups, decoding, **options))[1],
    )
    own = loaded.model.generation_config
    answering().generate([generate_request(COUNT, 0, {"until": ["ASSISTANT:"], "length_penalty": 0.5})])
    answering(num_beams=3).generate([generate_request(COUNT, 0, GREEDY)])
    assert (used[0].num_beams, used[0].max_new_tokens) == (own.num_beams, own.max_new_tokens)
    assert (used[0].repetition_penalty, used[0].length_penalty) == (own.repetition_penalty, 0.5)
    assert (used[1].num_beams, used[1].max_new_tokens) == (3, 24)


def test_unknown_options_are_named_once(answering, caplog):
    options = {**GREEDY, "image_aspect_ratio": "original"}
    answerer = answering()
    with caplog.at_level(logging.WARNING):
        answerer.generate([generate_request(COUNT, 0, options)])
        answerer.generate([generate_request(COUNT, 1, options)])
    assert [record.getMessage() for record in caplog.records] == [
        "words: options that LION does not know are ignored: image_aspect_ratio"
    ]


def test_prompts_and_levels(loaded, answering, caplog):
    request = generate_request(COUNT, 0, GREEDY)
    asked = {}
    for prompts in ("lion", "task"):
        for task in ("auto", "image_level", "region_level"):
            answerer = answering(prompts=prompts, level=task)
            (example,) = answerer._examples([request], [0]).values()
            asked[prompts, task] = example.instruction, example.level
    lion = format_prompt("vqa", question="How many objects are there?")
    assert asked == {
        ("lion", "auto"): (lion, "image_level"),
        ("lion", "image_level"): (lion, "image_level"),
        ("lion", "region_level"): (lion, "region_level"),
        ("task", "auto"): (COUNT, "image_level"),
        ("task", "image_level"): (COUNT, "image_level"),
        ("task", "region_level"): (COUNT, "region_level"),
    }
    caplog.clear()
    with caplog.at_level(logging.INFO):
        answering().generate([request, generate_request(COUNT, 1, GREEDY)])
    assert [record.getMessage() for record in caplog.records] == [f"words is asked in LION's words: {lion!r}"]


def test_losses_of_candidates(loaded, answering, encoded):
    text, candidates = "What color is the first object? Answer :", [*COLORS, "the grey one"]
    requests = [request for number in range(3) for request in score_requests(text, candidates, number)]
    # Whatever the order: a question's candidates find each other.
    order = sorted(range(len(requests)), key=lambda place: (place * 7) % len(requests))
    found = answering(tags="tagger").score([requests[place] for place in order])
    assert encoded == [3]
    losses = dict(zip(order, found, strict=True))
    instruction = format_prompt("vqa", question="What color is the first object?")
    ids = loaded.processor.encode_candidates(candidates)
    for number, row in enumerate(ROWS[:3]):
        tags = ", ".join(loaded.tagger(row["image"])[0])
        inputs = loaded.processor(
            images=row["image"], text=instruction, tags=tags, level="image_level", return_tensors="pt"
        )
        expected = -loaded.model.score_candidates(inputs, ids, length_normalize=True)[0]
        here = [losses[number * len(candidates) + place] for place in range(len(candidates))]
        assert [loss for loss, _ in here] == pytest.approx(expected.tolist(), abs=1e-4)
        greedy = one_by_one(
            loaded, instruction, row["image"], "image_level", tags, num_beams=1, max_new_tokens=ids.shape[1]
        )
        assert [candidate for candidate, (_, is_greedy) in zip(candidates, here) if is_greedy] == [
            candidate for candidate in candidates if candidate == greedy
        ]
    assert any(is_greedy for _, is_greedy in found)


def test_the_true_color_has_the_lowest_loss(answering):
    asked = [(number, scene.objects[0]) for number, scene in enumerate(SCENES) if is_alone(scene)]
    assert len(asked) >= 2
    candidates = list(COLORS)
    for number, item in asked:
        found = answering().score(score_requests(f"What color is the {item.glyph}? Answer :", candidates, number))
        losses = [loss for loss, _ in found]
        assert candidates[losses.index(min(losses))] == item.color
        assert [candidates[place] for place, (_, is_greedy) in enumerate(found) if is_greedy] == [item.color]


def is_alone(scene) -> bool:
    return [item.glyph for item in scene.objects].count(scene.objects[0].glyph) == 1


def test_a_candidate_may_be_read_from_the_row(answering):
    text = "What color is the first object? Answer :"
    (by_text,) = answering().score(score_requests(text, [ROWS[0]["answer"]], 0))
    (request,) = score_requests(text, [""], 0)
    request.arguments = (text, lambda row: row["answer"], *request.arguments[2:])
    assert answering().score([request]) == [by_text]


def test_repeated_requests(answering):
    text = "What color is the first object? Answer :"
    requests = score_requests(text, ["red", "blue"], 0)
    once = answering().score(requests)
    again = answering().score([*requests, requests[1]])
    assert [loss for loss, _ in again] == pytest.approx([loss for loss, _ in [*once, once[1]]], abs=1e-4)
    assert [is_greedy for _, is_greedy in again] == [is_greedy for _, is_greedy in [*once, once[1]]]


def broken(row):
    whole = io.BytesIO()
    row["image"].save(whole, format="PNG")
    return [Image.open(io.BytesIO(whole.getvalue()[:200]))]


@pytest.mark.parametrize(
    ("visual", "message"),
    [
        (None, "one image, this one has none"),
        (lambda row: [], "one image, this one has none"),
        (lambda row: [row["image"], row["image"]], "one image, this one has 2"),
        (lambda row: ["clip.mp4"], "LION looks at images, this is a str"),
        (broken, "truncated"),
    ],
)
def test_rows_that_cannot_be_asked_about(answering, visual, message):
    requests = [generate_request(COUNT, 0, GREEDY), generate_request(COUNT, 3, GREEDY, visual=visual)]
    with pytest.raises(ValueError, match=f"words, row 3 of test: .*{message}"):
        answering().generate(requests)


def test_likelihoods_that_are_not_finite(loaded, answering, monkeypatch):
    score = loaded.model.score_candidates
    monkeypatch.setattr(loaded.model, "score_candidates", lambda *args, **options: score(*args, **options) * 0 + 1e400)
    with pytest.raises(ValueError, match="choices, row 2 of test: .*finite"):
        answering().score(score_requests("What color is it? Answer :", ["red", "blue"], 2))


@pytest.mark.parametrize(
    ("options", "sampled"),
    [
        ({"do_sample": True}, True),
        ({"temperature": 0.7}, True),
        ({"do_sample": True, "temperature": 0.7}, True),
        ({"do_sample": False, "temperature": 0.7}, False),
        ({"do_sample": True, "temperature": 0}, False),
        ({}, False),
    ],
)
def test_sampling_is_refused_before_anything_is_answered(answering, encoded, options, sampled):
    request = generate_request(COUNT, 1, {"max_new_tokens": 4, "num_beams": 1, **options}, "boxes")
    requests = [generate_request(COUNT, 0, GREEDY), request]
    if sampled:
        with pytest.raises(ValueError, match="boxes asks for sampling.*--gen_kwargs do_sample=False,temperature=0"):
            answering().generate(requests)
        assert not encoded
    else:
        assert len(answering().generate(requests)) == 2


def test_text_alone_is_refused(answering):
    (request,) = score_requests("", ["red"], 0)
    request.arguments = ("", "red")
    with pytest.raises(ValueError, match="not text alone"):
        answering().score([request])


def test_no_requests(answering):
    assert answering().generate([]) == []
    assert answering().score([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "word_level"}, "level must be one of auto, image_level, region_level, got 'word_level'"),
        ({"num_beams": 0}, "num_beams must be at least 1, got 0"),
        ({"num_beams": "5"}, "num_beams must be at least 1, got '5'"),
        ({"prompts": "mine"}, "prompts must be one of lion, task, got 'mine'"),
    ],
)
def test_wrong_arguments(answering, options, message):
    with pytest.raises(ValueError, match=message):
        answering(**options)


def test_transparent_images_are_put_on_white_before_a_task_drops_that(answering):
    """As the processor does: most tasks' `convert("RGB")` would bring out black."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    requests = [generate_request(COUNT, 0, GREEDY)]
    answerer = answering(rows={"words": {"test": [{"image": image}]}})
    assert answerer._image(requests[0].arguments).getcolors() == [(64, (255, 255, 255))]


def test_images_are_known_by_their_pixels():
    image = ROWS[0]["image"]
    assert content_id(image) == content_id(image.copy())
    ids = {content_id(row["image"]) for row in ROWS}
    assert len(ids) == len(ROWS)
    # Pixels in another order are another image.
    assert content_id(Image.new("L", (2, 8), 7)) != content_id(Image.new("L", (8, 2), 7))
