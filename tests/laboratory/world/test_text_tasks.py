import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laboratory.world.backbones import build_processor, nano_config
from laboratory.world.dataset import LEVELS
from laboratory.world.language import TAGS, box_text
from laboratory.world.scene import sample_scene
from laboratory.world.text_tasks import (
    EXERCISES,
    MOST_NUMBERS,
    NAMES,
    SymbolVocabulary,
    encode_exercises,
    list_text,
    sample_exercises,
    scene_symbols,
    score_literacy,
)
from modeling_lion.modeling_lion import LionForConditionalGeneration


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return build_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def lion(processor):
    torch.manual_seed(0)
    return LionForConditionalGeneration(nano_config(processor))


@pytest.fixture(scope="module")
def vocabulary(lion, processor):
    torch.manual_seed(1)
    return SymbolVocabulary(lion.get_input_embeddings().weight, processor.tokenizer, 4)


def exercises(seed: int):
    return sample_exercises(np.random.default_rng(seed), 6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_list_and_its_name_are_told_apart(seed):
    for item in exercises(seed):
        lists = {symbol.words: symbol.numbers for symbol in item.symbols if symbol.words}
        by_name = {" ".join(words): list_text(numbers) for words, numbers in lists.items()}
        if item.task == "packed list":
            asked = [name for name in by_name if name in item.prompt]
            assert [by_name[name] for name in asked] == [item.completion]
        if item.task == "packed name":
            assert by_name[item.completion] in item.prompt
        if item.task == "packed word":
            (given_word,) = [word for word in item.prompt.split() if word in NAMES]
            named = [words for words in lists if given_word in words]
            fitting = [words for words in named if list_text(lists[words]) in item.prompt]
            assert [word for words in fitting for word in words if word != given_word] == [item.completion]
        if item.task in ("text list", "copy"):
            assert item.completion in item.prompt


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_symbol_ties_a_box_to_a_thing(seed):
    for item in exercises(seed):
        for symbol in item.symbols:
            assert not set(symbol.words) & set(TAGS)
    assert all(not symbol.numbers for symbol in scene_symbols(sample_scene(seed), 4))


def test_every_exercise_is_one_token_a_number(processor):
    for family in EXERCISES.values():
        for make in family:
            item = make(np.random.default_rng(3))
            batch = encode_exercises(processor, [item])
            decoded = processor.tokenizer.decode(batch["labels"][0], skip_special_tokens=True)
            assert decoded == item.completion
            assert processor.tokenizer.unk_token_id not in batch["input_ids"]


def test_symbols_are_sums_of_words_and_places(processor, vocabulary):
    scene = sample_scene(11, most_objects=3)
    item = scene.objects[0]
    batch = encode_exercises(processor, [*_scene_exercise(scene)])
    parts = {name: batch[f"symbol_{name}"] for name in ("words", "numbers", "place", "slot")}
    vectors = vocabulary(*parts.values())
    token = vocabulary.word[processor.tokenizer.convert_tokens_to_ids([f"▁{item.glyph}", f"▁{item.color}"])].sum(0)
    x, y = item.center[0] / 48 - 1, item.center[1] / 48 - 1
    expected = token + vocabulary.slot[1] + x * vocabulary.axes[0] + y * vocabulary.axes[1]
    assert torch.allclose(vectors[0, 0], expected, atol=1e-5)
    empty = vectors[0, len(scene.objects)]
    assert torch.allclose(empty, vocabulary.nothing + vocabulary.slot[len(scene.objects) + 1], atol=1e-5)


def _scene_exercise(scene):
    from laboratory.world.text_tasks import Exercise

    return [Exercise("Describe the image.", "a", scene_symbols(scene, 4))]


def test_numbers_of_a_list_are_turned_by_their_places(vocabulary):
    def pack(*numbers):
        row = torch.full((1, 1, MOST_NUMBERS), -1)
        row[0, 0, : len(numbers)] = torch.tensor(numbers)
        words = torch.full((1, 1, 2), 5)
        return vocabulary(words, row, torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long))

    assert not torch.allclose(pack(3, 9), pack(9, 3), atol=0.1)
    assert torch.allclose(pack(3, 9) - pack(3), pack(4, 9) - pack(4), atol=1e-4)


def test_scores_count_what_is_right_word_for_word(lion, vocabulary, processor, monkeypatch):
    items = exercises(0) + exercises(1)
    answers = [item.completion if number % 2 else "no" for number, item in enumerate(items)]

    def answer(inputs_embeds, **_):
        given_rows, answers[:] = answers[: len(inputs_embeds)], answers[len(inputs_embeds) :]
        return processor.tokenizer(given_rows, padding=True, return_tensors="pt").input_ids

    monkeypatch.setattr(lion.language_model, "generate", answer)
    scores = score_literacy(lion, vocabulary, processor, items, batch_size=5)
    assert sum(share * count for share, count in scores.values()) == pytest.approx(len(items) // 2)


def test_boxes_and_lists_are_written_alike():
    item = sample_scene(3).objects[0]
    assert list_text(item.box) == box_text(item)
    assert set(LEVELS["image_level"])
