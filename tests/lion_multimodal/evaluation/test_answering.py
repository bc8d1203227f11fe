"""Examples to answers, with the checkpoint that ships."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lion_multimodal import checkpoints
from lion_multimodal.evaluation import answering
from lion_multimodal.evaluation.answering import Answer, Answerer, Unanswered, group_by_image
from lion_multimodal.evaluation.benchmark import Decoding, Example
from lion_multimodal.evaluation.rows import load_image
from tests.lion_multimodal.evaluation.small import IMAGES, MIXED, world_examples


NANO = checkpoints.path("nano")
EXAMPLES = world_examples()


@pytest.fixture(scope="module")
def loaded() -> Answerer:
    return Answerer.from_pretrained(NANO, device="cpu")


@pytest.fixture
def answerer(loaded):
    """Makes answerers of one checkpoint."""
    return lambda tags="none", batch_size=16: Answerer(
        loaded.model, loaded.processor, loaded.tagger, tags=tags, batch_size=batch_size
    )


def answers(answerer: Answerer, examples=EXAMPLES, groups=None, **options) -> dict[str, Answer]:
    groups = group_by_image(examples, answerer.batch_size) if groups is None else groups
    batches = list(answerer.answer(groups, MIXED.decoding, **options))
    assert not [example for _, lost in batches for example in lost]
    found = [answer for batch, _ in batches for answer in batch]
    assert len({answer.id for answer in found}) == len(found)
    return {answer.id: answer for answer in found}


def assert_same(first: dict[str, Answer], second: dict[str, Answer]) -> None:
    """Up to rounding."""
    assert first.keys() == second.keys()
    for name, answer in first.items():
        assert (second[name].text, second[name].tags) == (answer.text, answer.tags)
        assert second[name].scores == (None if answer.scores is None else pytest.approx(answer.scores, abs=1e-4))


def test_answers_are_those_of_one_question_at_a_time(loaded, answerer):
    model, processor = loaded.model, loaded.processor
    found = answers(answerer(batch_size=3))
    assert list(found) != [example.id for example in EXAMPLES]  # they were put together by image
    levels = set()
    for example in EXAMPLES:
        inputs = processor(
            images=load_image(example), text=example.instruction, level=example.level, return_tensors="pt"
        )
        levels.add(example.level)
        if example.candidates is None:
            ids = model.generate(**inputs, num_beams=2, max_new_tokens=24, min_length=0, do_sample=False)
            (text,) = processor.batch_decode(ids, skip_special_tokens=True)
            assert found[example.id] == Answer(example.id, text.strip(), None, None)
        else:
            scores = model.score_candidates(inputs, processor.encode_candidates(list(example.candidates)))[0]
            assert found[example.id].scores == pytest.approx(scores.tolist(), abs=1e-4)
            assert found[example.id].text == example.candidates[int(scores.argmax())]
    assert levels == {"image_level", "region_level"}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_nothing(answerer, batch_size):
    assert_same(answers(answerer(batch_size=batch_size)), answers(answerer()))


def test_decoding_is_the_benchmarks(answerer):
    asked = [example for example in EXAMPLES if example.candidates is None]
    ((short, _),) = answerer().answer([asked], Decoding(num_beams=1, max_new_tokens=1))
    ((long, _),) = answerer().answer([asked], Decoding(num_beams=1, max_new_tokens=24, min_new_tokens=12))
    assert max(len(answer.text) for answer in short) < min(len(answer.text) for answer in long)


def test_likelihoods_per_token(loaded, answerer):
    raw, per_token = answers(answerer()), answers(answerer(), normalize_candidates=True)
    for example in EXAMPLES:
        if example.candidates is not None:
            ids = loaded.processor.encode_candidates(list(example.candidates))
            expected = torch.tensor(raw[example.id].scores) / (ids != -100).sum(dim=-1)
            assert per_token[example.id].scores == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_image_is_encoded_and_tagged_once(loaded, answerer, monkeypatch):
    encoded, tagged = [], []
    encode_images, tag = loaded.model.encode_images, loaded.tagger.tag_pixel_values
    monkeypatch.setattr(
        loaded.model, "encode_images", lambda pixels: (encoded.append(len(pixels)), encode_images(pixels))[1]
    )
    monkeypatch.setattr(loaded.tagger, "tag_pixel_values", lambda pixels: (tagged.append(len(pixels)), tag(pixels))[1])
    answers(answerer(tags="tagger", batch_size=3))
    assert encoded == tagged == [3, IMAGES - 3]


def test_tags(loaded, answerer):
    from_column = answers(answerer(tags="column"))
    assert {name: answer.tags for name, answer in from_column.items()} == {e.id: e.tags for e in EXAMPLES}
    assert None in {answer.tags for answer in from_column.values()}

    from_tagger = answers(answerer(tags="tagger"))
    for example in EXAMPLES:
        assert from_tagger[example.id].tags == ", ".join(loaded.tagger(load_image(example))[0])

    # They are in the prompt: other tags, other likelihoods.
    chosen = next(example for example in EXAMPLES if example.candidates is not None)
    told = [dataclasses.replace(chosen, id=tags, tags=tags) for tags in ("red, star", "blue, cloud")]
    one, other = answers(answerer(tags="column"), told).values()
    assert one.scores != pytest.approx(other.scores, abs=1e-4)


def test_what_goes_on_gives_the_same_numbers(answerer):
    """Not up to rounding: to the last bit, whatever was answered before and whoever answers the rest."""
    whole = answers(answerer(batch_size=2))
    done = {example.id for number, example in enumerate(EXAMPLES) if number % 3}
    rest = answers(answerer(batch_size=2), answered=done)
    assert rest == {name: answer for name, answer in whole.items() if name not in done}
    assert answers(answerer(batch_size=2), answered=set(whole)) == {}

    groups = group_by_image(EXAMPLES, 2)
    shares = [answers(answerer(batch_size=2), groups=groups[index::2]) for index in range(2)]
    assert shares[0] | shares[1] == whole


def test_unreadable_images_lose_their_questions_only(answerer, tmp_path):
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"junk")
    lost_id = EXAMPLES[0].image_id
    examples = [
        dataclasses.replace(example, image=str(junk)) if example.image_id == lost_id else example
        for example in EXAMPLES
    ]
    batches = list(answerer().answer(group_by_image(examples, 16), MIXED.decoding))
    lost = [example for _, unanswered in batches for example in unanswered]
    assert {example.id for example in lost} == {e.id for e in EXAMPLES if e.image_id == lost_id}
    assert "junk" in lost[0].reason
    found = {answer.id: answer for answered, _ in batches for answer in answered}
    readable = [example for example in EXAMPLES if example.image_id != lost_id]
    assert_same(found, answers(answerer(), readable))


def test_candidates_are_scored_in_parts_where_they_are_many(loaded, answerer, monkeypatch):
    whole = answers(answerer())
    scored = []
    score = loaded.model.score_candidates

    def count(inputs, candidates, **options):
        scored.append(candidates.numel())
        return score(inputs, candidates, **options)

    monkeypatch.setattr(loaded.model, "score_candidates", count)
    monkeypatch.setattr(answering, "_MOST_CANDIDATE_TOKENS", 10)
    assert_same(answers(answerer()), whole)
    chosen = [list(example.candidates) for example in EXAMPLES if example.candidates is not None]
    assert max(scored) <= 10 < max(loaded.processor.encode_candidates(candidates).numel() for candidates in chosen)


def test_equal_candidates_are_encoded_once(loaded, answerer, monkeypatch):
    encoded = []
    encode = loaded.processor.encode_candidates
    monkeypatch.setattr(
        loaded.processor, "encode_candidates", lambda texts: (encoded.append(tuple(texts)), encode(texts))[1]
    )
    answers(answerer())
    assert sorted(encoded) == sorted({e.candidates for e in EXAMPLES if e.candidates is not None})


def test_likelihoods_that_are_not_finite(loaded, answerer, monkeypatch):
    score = loaded.model.score_candidates

    def overflow(inputs, candidates, **options):
        scores = score(inputs, candidates, **options)
        scores[0, 1] = math.nan
        return scores

    monkeypatch.setattr(loaded.model, "score_candidates", overflow)
    ((found, lost),) = answerer().answer([[e for e in EXAMPLES if e.candidates is not None]], MIXED.decoding)
    assert len(lost) == 1
    assert "finite" in lost[0].reason
    assert lost[0].id not in {answer.id for answer in found}


def test_wrong_arguments(loaded, tmp_path):
    for arguments, message in [
        ({"tags": "row"}, "tags must be one of column, tagger, none"),
        ({"tags": "tagger"}, "needs a tagger"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Answerer(loaded.model, loaded.processor, **arguments)
    with pytest.raises(ValueError, match="dtype must be one of auto"):
        Answerer.from_pretrained(NANO, dtype="int8")
    with pytest.raises(ValueError, match="device 'nonsense' cannot be used"):
        Answerer.from_pretrained(NANO, device="nonsense")
    (tmp_path / "config.json").write_text('{"model_type": "lion"}')
    with pytest.raises(OSError, match="has no tagger.*--tags none"):
        Answerer.from_pretrained(tmp_path, device="cpu")


def test_precision(loaded):
    assert loaded.model.dtype == torch.float32
    half = Answerer.from_pretrained(NANO, tags="none", dtype="bfloat16", device="cpu")
    assert half.model.dtype == torch.bfloat16
    assert half.tagger is None
    ((found, lost),) = half.answer([EXAMPLES[:2]], MIXED.decoding)
    assert [type(answer.text) for answer in found] == [str, str]
    assert not lost


@given(
    st.lists(st.tuples(st.text(max_size=3), st.sampled_from("abcdef")), unique_by=lambda pair: pair[0]),
    st.integers(1, 4),
)
def test_groups_hold_whole_images(pairs, pictures):
    examples = [Example(name, None, image_id, "?", {"references": ""}) for name, image_id in pairs]
    groups = group_by_image(examples, pictures)
    assert sorted(e.id for group in groups for e in group) == sorted(name for name, _ in pairs)
    shown = [{example.image_id for example in group} for group in groups]
    assert all(len(names) == pictures for names in shown[:-1])
    assert all(1 <= len(names) <= pictures for names in shown)
    assert sum(map(len, shown)) == len({image_id for _, image_id in pairs})
    for group in groups:  # the questions about an image stand together, in their order
        names = [example.image_id for example in group]
        assert names == sorted(names, key=names.index)


def test_unanswered_is_a_record():
    assert dataclasses.asdict(Unanswered("a", "b")) == {"id": "a", "reason": "b"}
