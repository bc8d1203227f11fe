import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from laboratory.world.backbones import build_processor, nano_config
from laboratory.world.dataset import LEVELS
from laboratory.world.literacy import TASK_SHARES, ExercisePool, LiteracyBatches, LiteracyTeacher, cut_by_length
from laboratory.world.text_tasks import SymbolVocabulary
from modeling_lion.modeling_lion import LionForConditionalGeneration


TASKS = tuple(TASK_SHARES)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return build_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def pool(processor):
    return ExercisePool.make(processor, num_scenes=300, first_scene=7, num_slots=4, most_objects=2)


def test_scenes_are_asked_for_the_image_level_alone(pool, processor):
    for task in LEVELS["image_level"]:
        batch = pool.batch(pool.rows[task])
        texts = processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
        assert texts
        assert not [text for text in texts if re.search(r"\[[01]|coordinates|locate", text)]
        assert (batch["symbol_numbers"] == -1).all()
        assert (batch["symbol_place"].ne(0).any(-1).sum(1) <= 2).all()


def test_a_pool_holds_what_was_encoded(pool, processor):
    batch = pool.batch(pool.rows["copy"])
    prompts = processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
    labels = batch["labels"].masked_fill(batch["labels"] == -100, 0)
    answers = processor.batch_decode(labels, skip_special_tokens=True)
    assert all(prompt == f"Read {answer}.".lower() for prompt, answer in zip(prompts, answers))
    ends = processor.tokenizer.eos_token_id
    assert all(row[length - 1] == ends for row, length in zip(batch["input_ids"], batch["attention_mask"].sum(1)))


def test_a_pool_is_the_same_whoever_makes_it(processor):
    alone, shared = (ExercisePool.make(processor, 260, 0, 4, processes=processes) for processes in (1, 2))
    assert all(np.array_equal(alone.arrays[name], shared.arrays[name]) for name in alone.arrays)


def test_a_pool_that_was_kept_gives_the_same_batches(pool, tmp_path):
    pool.save(tmp_path / "pool.safetensors")
    kept = ExercisePool.load(tmp_path / "pool.safetensors")
    for of_kept, of_pool in zip(
        LiteracyBatches(kept, 1, 64, 3)[0].values(), LiteracyBatches(pool, 1, 64, 3)[0].values()
    ):
        assert of_kept.keys() == of_pool.keys()
        assert all(torch.equal(of_kept[name], of_pool[name]) for name in of_pool)


def test_every_task_has_its_share(pool):
    shares = pool.shares()
    total = sum(TASK_SHARES.values())
    assert shares == pytest.approx([TASK_SHARES[task] / total for task in TASKS])
    drawn = pool.draw(np.random.default_rng(0), 20_000)
    relation = np.isin(drawn, pool.rows["relation"]).mean()
    assert relation == pytest.approx(TASK_SHARES["relation"] / total, abs=0.01)


def test_a_batch_of_a_number_is_always_the_same(pool):
    data = LiteracyBatches(pool, 3, 64, parts=4)
    first, again, other = data[2], data[2], data[1]
    assert len(first) == 4
    assert sum(len(part["labels"]) for part in first.values()) == 64
    for name, part in first.items():
        assert (part["attention_mask"].sum(1) > 0).all()
        assert all(torch.equal(part[key], again[name][key]) for key in part)
    assert not torch.equal(first["part_0"]["labels"][:5, :2], other["part_0"]["labels"][:5, :2])


def test_a_batch_is_as_wide_as_what_is_in_it(pool):
    for part in LiteracyBatches(pool, 1, 64, parts=4)[0].values():
        assert part["attention_mask"].any(0).all()
        assert (part["labels"] != -100).any(0).all()
        assert part["symbol_mask"].any(0).all()


@given(
    arrays(np.int64, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.integers(0, 9)), st.integers(1, 6)
)
def test_cuts_keep_every_row_and_save_what_is_padded(lengths, parts):
    cut = cut_by_length(lengths, parts)
    assert len(cut) <= parts
    assert sorted(np.concatenate(cut)) == list(range(len(lengths)))
    costs = [
        sum(len(rows) * lengths[rows].max(0).sum() for rows in cut_by_length(lengths, count))
        for count in range(1, parts + 1)
    ]
    assert costs == sorted(costs, reverse=True)


def test_the_best_cut_is_the_first():
    lengths = np.array([[9, 2], [2, 2], [9, 2], [2, 3], [8, 2]])
    assert [list(rows) for rows in cut_by_length(lengths, 2)] == [[1, 3], [0, 2, 4]]


def test_however_a_batch_is_cut_it_teaches_the_same(pool, processor, monkeypatch):
    monkeypatch.setattr("laboratory.world.text_tasks.torch.randn_like", torch.zeros_like)  # the noise of the symbols
    torch.manual_seed(0)
    lion = LionForConditionalGeneration(nano_config(processor))
    teacher = LiteracyTeacher(lion, SymbolVocabulary(lion.get_input_embeddings().weight, processor.tokenizer, 4))
    found = []
    for parts in (1, 5):
        lion.zero_grad()
        loss = teacher(**LiteracyBatches(pool, 1, 48, parts=parts)[0])["loss"]
        loss.backward()
        found.append((loss.item(), lion.language_model.shared.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_the_teacher_trains_the_language_model(pool, processor):
    torch.manual_seed(0)
    lion = LionForConditionalGeneration(nano_config(processor))
    teacher = LiteracyTeacher(lion, SymbolVocabulary(lion.get_input_embeddings().weight, processor.tokenizer, 4))
    teacher(**LiteracyBatches(pool, 1, 64)[0])["loss"].backward()
    touched = {name for name, value in lion.named_parameters() if value.grad is not None and value.grad.any()}
    assert "language_model.shared.weight" in touched
    assert "language_model.lm_head.weight" in touched
    assert not [name for name in touched if not name.startswith("language_model.")]


def test_longer_answers_weigh_more_but_not_by_their_length(pool, processor, monkeypatch):
    lion = LionForConditionalGeneration(nano_config(processor))
    teacher = LiteracyTeacher(lion, SymbolVocabulary(lion.get_input_embeddings().weight, processor.tokenizer, 4))
    labels = torch.tensor([[5, 1, -100, -100, -100, -100, -100, -100], [5, 5, 5, 5, 5, 5, 5, 1]])
    costs = torch.tensor([1.0, 4.0])  # of every token of the two answers

    class Output:
        logits = torch.zeros(2, 8, 10)

    monkeypatch.setattr(lion.language_model, "forward", lambda **_: Output)
    monkeypatch.setattr(
        "laboratory.world.literacy.F.cross_entropy",
        lambda *_, **__: (costs[:, None] * (labels != -100)).flatten(),
    )
    batch = {name: values[:2] for name, values in pool.batch(pool.rows["color"]).items()}
    weights = 2**0.5, 8**0.5
    expected = (weights[0] * 1.0 + weights[1] * 4.0) / sum(weights)
    assert teacher(part={**batch, "labels": labels})["loss"].item() == pytest.approx(expected)
