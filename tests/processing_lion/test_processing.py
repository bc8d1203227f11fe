"""The processor: parity with the official implementation, truncation, the soft prompt, answers, saving."""

import logging
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, DataCollatorForSeq2Seq
from transformers.processing_utils import TextKwargs

from processing_lion import (
    SOFT_PROMPT_TOKEN,
    LionProcessor,
    add_qformer_bos_token,
    format_tags,
    processing_lion,
)

from .conftest import FIXTURES


IMAGE = Image.new("RGB", (9, 6), "green")
SOFT = 799  # the id of <extra_id_0> in the fixture's tokenizer


def ids_of(processor, text):
    return processor.tokenizer(text)["input_ids"]


def marked(output):
    """(row, id) of every marked token."""
    rows, columns = output["soft_prompt_mask"].nonzero(as_tuple=True)
    return [(int(row), int(output["input_ids"][row, column])) for row, column in zip(rows, columns)]


# --- Parity ---------------------------------------------------------------------------------------------------------


def test_ids_are_those_of_the_official_implementation(processor, golden_inputs):
    output = processor(
        images=[IMAGE] * 3,
        text=golden_inputs["questions"],
        tags=golden_inputs["tags"],
        answers=golden_inputs["answers"],
    )
    for name in ("input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask", "labels"):
        assert torch.equal(output[name], golden_inputs["tensors"][name]), name
        assert output[name].dtype == torch.int64
    assert output["pixel_values"].shape == golden_inputs["tensors"]["pixel_values"].shape
    assert output["level_ids"].tolist() == [1, 0, 1]
    assert output["level_ids"].dtype == torch.int64
    assert marked(output) == [(0, SOFT), (1, SOFT), (2, SOFT)]
    assert processor.tokenizer.batch_decode(output["input_ids"], skip_special_tokens=True)[2].endswith("short answer:")


def test_official_qformer_vocabulary():
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "bert")
    count = len(tokenizer)
    assert add_qformer_bos_token(tokenizer).bos_token == "[DEC]"
    assert (len(tokenizer), tokenizer.bos_token_id) == (count + 1, count)
    assert len(add_qformer_bos_token(tokenizer)) == count + 1  # once only


# --- Shapes of input ------------------------------------------------------------------------------------------------


def test_one_sample_needs_no_lists(processor):
    output = processor(IMAGE, "what is it?", tags=["dog", "cat"], answers="a dog")
    assert list(output["input_ids"][0]) == ids_of(processor, format_tags("dog, cat") + "what is it?")
    assert {name: len(value) for name, value in output.items()} == dict.fromkeys(
        [*processor.model_input_names, "labels"], 1
    )


@pytest.mark.parametrize("tags", ["dog, cat", ["dog", "cat"], ["dog, cat"], [["dog", "cat"]]])
def test_tags_of_one_sample_as_string_or_list(processor, tags):
    output = processor(text="what is it?", tags=tags)
    assert list(output["input_ids"][0]) == ids_of(processor, format_tags("dog, cat") + "what is it?")


def test_tags_per_sample(processor):
    texts = ["what is it?"] * 5
    output = processor(text=texts, tags=["dog, cat", ["dog", "cat"], None, "", []])
    expected = [format_tags("dog, cat")] * 2 + ["", format_tags(""), format_tags("")]
    for row, mask, sentence in zip(output["input_ids"], output["attention_mask"], expected):
        assert row[mask.bool()].tolist() == ids_of(processor, sentence + "what is it?")
    assert output["soft_prompt_mask"].sum(dim=1).tolist() == [1, 1, 0, 1, 1]
    for_all = processor(text=texts, tags="dog, cat")["input_ids"]
    assert torch.equal(for_all, for_all[:1].expand(5, -1))


def test_without_images_or_without_text(processor):
    assert "pixel_values" not in processor(text="what is it?")
    assert list(processor(images=[IMAGE, IMAGE])) == ["pixel_values"]


def test_task(processor):
    texts = ["where is the dog?", "what is it?"]
    assert processor(text=texts)["level_ids"].tolist() == [0, 1]
    assert processor(text=texts, level="image_level")["level_ids"].tolist() == [1, 1]
    assert processor(text=texts, level=["image_level", "auto"])["level_ids"].tolist() == [1, 1]
    assert processor(text=texts, level=["auto", "region_level"])["level_ids"].tolist() == [0, 0]
    # the tag sentence has no say
    assert processor(text="what is it?", tags="where is the dog?")["level_ids"].tolist() == [1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "images, text, or both"),
        ({"text": 3}, TypeError, "text must be a string"),
        ({"text": ["a", 3]}, TypeError, r"text\[1\]"),
        ({"text": []}, ValueError, "text must not be empty"),
        ({"images": IMAGE, "text": ["a", "b"]}, ValueError, "images: got 1 for 2 texts.*encode_images"),
        ({"images": [IMAGE] * 2, "text": "a"}, ValueError, "images: got 2 for 1 texts"),
        ({"images": [IMAGE, 3], "text": ["a", "b"]}, TypeError, r"images\[1\]: cannot load an image from int"),
        ({"text": ["a", "b"], "tags": ["x"]}, ValueError, "tags: got 1 for 2 texts"),
        ({"text": ["a", "b"], "tags": ["x", 3]}, TypeError, r"tags\[1\]"),
        ({"text": "a", "tags": 3}, TypeError, "tags must be"),
        ({"text": "a", "level": "region"}, ValueError, "level must be 'auto', 'image_level' or 'region_level'"),
        ({"text": ["a", "b"], "level": ["auto"]}, ValueError, "level: got 1 for 2 texts"),
        ({"text": ["a", "b"], "answers": "x"}, ValueError, "answers: got 1 for 2 texts"),
        ({"text": "a", "answers": [None]}, TypeError, r"answers\[0\]"),
        ({"images": IMAGE, "answers": "x"}, ValueError, "answers need text"),
        ({"images": IMAGE, "tags": "x"}, ValueError, "tags need text"),
        ({"text": "a", "videos": [1]}, ValueError, "LION takes no videos"),
        ({"text": "a", "max_length": 10}, ValueError, "max_length must be at least"),
        ({"text": "a", "padding": "longer"}, ValueError, "padding"),
    ],
)
def test_errors_name_the_argument(processor, arguments, error, message):
    if "max_length" in arguments:
        arguments = {**arguments, "tags": "dog"}
    with pytest.raises(error, match=message):
        processor(**arguments)


def test_settings_are_checked(make_processor):
    with pytest.raises(ValueError, match="max_text_length must be at least"):
        make_processor(max_text_length=20)
    with pytest.raises(ValueError, match="max_answer_length must be an integer that is at least 2, got 1"):
        make_processor(max_answer_length=1)
    for name in ("max_text_length", "max_qformer_text_length", "max_answer_length"):
        for value in (0, -5, True, 1.5, "128", None, float("nan")):
            with pytest.raises(ValueError, match=f"{name} must be"):
                make_processor(**{name: value})
    with pytest.raises(ValueError, match="`image_processor` must be given"):
        LionProcessor()
    bert = AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "bert")
    with pytest.raises(ValueError, match="<extra_id_0>"):
        LionProcessor(make_processor().image_processor, bert, bert)


# --- The soft prompt ------------------------------------------------------------------------------------------------


def test_only_the_sentences_own_token_is_marked(processor):
    text = f"what is {SOFT_PROMPT_TOKEN} and {SOFT_PROMPT_TOKEN}?"
    output = processor(text=[text] * 3, tags=[f"dog, {SOFT_PROMPT_TOKEN}", None, ""])
    assert (output["input_ids"] == SOFT).sum(dim=1).tolist() == [4, 2, 3]
    assert marked(output) == [(0, SOFT), (2, SOFT)]
    assert output["soft_prompt_mask"].argmax(dim=1).tolist() == [5, 0, 5]


def test_an_image_placeholder_is_plain_text(processor):
    text = "in the image <image>, what is it?"
    assert list(processor(text=text)["input_ids"][0]) == ids_of(processor, text)


# --- Truncation -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from(["dog", "red", "square", SOFT_PROMPT_TOKEN, "table"]), min_size=1, max_size=150),
    tags=st.one_of(st.none(), st.lists(st.sampled_from(["dog", "red car", "beagle", SOFT_PROMPT_TOKEN]), max_size=80)),
    limit=st.integers(40, 160),
    as_string=st.booleans(),
)
def test_truncation_keeps_the_soft_prompt_and_the_questions_end(processor, words, tags, limit, as_string):
    text = " ".join(words)
    given_tags = ", ".join(tags) if tags is not None and as_string else tags
    output = processor(text=text, tags=given_tags, max_length=limit)
    ids = output["input_ids"][0].tolist()
    whole = ids_of(processor, text if tags is None else format_tags(tags) + text)
    if len(whole) <= limit:
        assert ids == whole
        return
    assert len(ids) <= limit
    assert ids[-1] == processor.tokenizer.eos_token_id
    if tags is None:
        assert ids == whole[-limit:]
        return
    assert marked(output) == [(0, SOFT)]
    without_tags = ids_of(processor, format_tags("") + text)
    if len(without_tags) <= limit:  # the question is whole, behind as many tags as fit
        kept = next(n for n in range(len(tags)) if ids == ids_of(processor, format_tags(tags[:n]) + text))
        assert len(ids_of(processor, format_tags(tags[: kept + 1]) + text)) > limit
    else:  # the sentence is whole, the question has lost its head
        sentence = ids_of(processor, format_tags("").rstrip())[:-1]
        assert ids[: len(sentence)] == sentence
        assert ids[len(sentence) :] == without_tags[len(sentence) - limit :]
        assert len(ids) == limit


def test_init_limit_and_switching_truncation_off(make_processor):
    processor = make_processor(max_text_length=64)
    text = "what is the dog doing? " * 30
    assert processor(text=text, tags="dog, cat")["input_ids"].shape[1] == 64
    whole = processor(text=text, tags="dog, cat", truncation=False)["input_ids"][0].tolist()
    assert whole == ids_of(processor, format_tags("dog, cat") + text)


def test_qformer_sees_the_instructions_end_without_tags(make_processor):
    processor = make_processor(max_qformer_text_length=12)
    text = "what is the dog doing on the table near the red car?"
    whole = processor.qformer_tokenizer(text)["input_ids"]
    output = processor(text=[text, "what?"], tags="dog, cat")
    cut = output["qformer_input_ids"][0].tolist()
    assert len(whole) > 12
    assert cut == [whole[0], *whole[-11:]]
    assert output["qformer_input_ids"][1].tolist()[:4] == processor.qformer_tokenizer("what?")["input_ids"][:4]


# --- Padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_keeps_masks_aligned(make_processor, side):
    processor = make_processor()
    processor.tokenizer.padding_side = side
    output = processor(
        text=["what is it?", "what is the dog doing on the table?"], tags=["dog", None], answers=["a", "b c"]
    )
    short = ids_of(processor, format_tags("dog") + "what is it?")
    assert output["input_ids"][0][output["attention_mask"][0].bool()].tolist() == short
    assert marked(output) == [(0, SOFT)]
    assert (output["attention_mask"][1, 0] == 0) == (side == "left")
    assert output["labels"][0, -1] == -100  # answers are padded at the end in any case


def test_padding_options(processor):
    texts = ["what is it?", "what is the dog doing?"]
    assert processor(text=texts, padding="max_length", max_length=50)["input_ids"].shape == (2, 50)
    assert processor(text=texts, padding="max_length")["input_ids"].shape == (2, 128)
    assert processor(text=texts, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    lists = processor(text=texts, padding=False, return_tensors=None)["input_ids"]
    assert [len(ids) for ids in lists] == [len(ids_of(processor, text)) for text in texts]
    assert isinstance(processor(text=texts, return_tensors="np")["input_ids"], np.ndarray)
    nested = processor(
        text=texts,
        text_kwargs={"padding": "max_length", "max_length": 50},
        images=[IMAGE] * 2,
        images_kwargs={"size": 14},
    )
    assert nested["input_ids"].shape == (2, 50)
    assert nested["pixel_values"].shape == (2, 3, 14, 14)


# --- Answers --------------------------------------------------------------------------------------------------------


def test_labels_end_with_the_end_token(make_processor):
    processor = make_processor(max_answer_length=5)
    labels = processor(text=["a", "b", "c"], answers=["cat", "a woman standing next to a dog.", ""])["labels"]
    end = processor.tokenizer.eos_token_id
    assert labels.shape == (3, 5)
    assert labels[0].tolist() == [*ids_of(processor, "cat"), -100, -100, -100]
    assert labels[1].tolist() == [*ids_of(processor, "a woman standing next to a dog.")[:4], end]
    assert labels[2].tolist() == [end, -100, -100, -100, -100]


def test_answers_are_cut_at_their_end_whatever_the_tokenizers_side(make_processor):
    processor = make_processor(max_answer_length=5)
    processor.tokenizer.truncation_side = "left"
    first = processor(text="a", answers="a woman standing next to a dog.")["labels"][0, 0]
    assert first == ids_of(processor, "a woman")[0]


def test_encode_candidates(processor):
    shared = processor.encode_candidates(["yes", "no dog"])
    assert shared.dtype == torch.int64
    assert shared[0][shared[0] != -100].tolist() == ids_of(processor, "yes")
    assert shared[1][shared[1] != -100].tolist() == ids_of(processor, "no dog")
    own = processor.encode_candidates([["yes", "no"], ["a dog", "cat"], ["red", "table"]])
    assert own.shape[:2] == (3, 2)
    assert own[1, 0][own[1, 0] != -100].tolist() == ids_of(processor, "a dog")
    for bad, error in [("yes", TypeError), ([], ValueError), ([["a"], ["b", "c"]], ValueError), ([[], []], ValueError)]:
        with pytest.raises(error, match="candidates"):
            processor.encode_candidates(bad)


# --- Outputs --------------------------------------------------------------------------------------------------------


def test_processor_can_be_copied_to_workers(processor):
    clone = pickle.loads(pickle.dumps(processor))
    for name, value in processor(IMAGE, "what is it?", tags="dog").items():
        assert torch.equal(clone(IMAGE, "what is it?", tags="dog")[name], value)
    assert "LionImageProcessor" in repr(clone)


def test_decode(processor):
    ids = processor(text="a", answers="a woman")["labels"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["a woman"]
    assert processor.decode(ids[0], skip_special_tokens=True) == "a woman"


def test_post_process_grounding(processor):
    results = processor.post_process_grounding(
        ["a dog [0.1,0.2,0.5,0.6] and a cat [0.0,0.0,1.0,1.0]", "nothing", "Answer: [0.1,0.2,0.5,0.6]"],
        [(100, 200), (50, 50), (10, 20)],
    )
    assert results[0]["labels"] == ["a dog", "a cat"]
    assert torch.allclose(results[0]["boxes"], torch.tensor([[20.0, 20.0, 100.0, 60.0], [0.0, 0.0, 200.0, 100.0]]))
    assert results[1]["boxes"].shape == (0, 4)
    assert results[1]["labels"] == []
    assert results[2]["labels"] == [""]
    assert results[2]["boxes"].dtype == torch.float32
    one = processor.post_process_grounding("[0.1,0.2,0.5,0.6]", (10, 20))
    assert torch.equal(one[0]["boxes"], results[2]["boxes"])
    assert len(processor.post_process_grounding(["a", "b"], torch.tensor([[10, 20], [30, 40]]))) == 2
    assert len(processor.post_process_grounding(["a", "b"], [torch.tensor([10, 20])] * 2)) == 2
    with pytest.raises(ValueError, match="image_sizes: got 1 for 2 texts"):
        processor.post_process_grounding(["a", "b"], [(10, 20)])
    for sizes, message in [
        (None, "image_sizes must be"),
        (5, "image_sizes must be"),
        ([(10, 20), None], r"image_sizes\[1\]: image_size must be \(height, width\)"),
        ([(10, 20), (0, 5)], r"image_sizes\[1\]"),
        ([(10, 20), ("a", 5)], r"image_sizes\[1\]"),
        ([(10, 20), (float("nan"), 5)], r"image_sizes\[1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor.post_process_grounding(["a", "b"], sizes)


# --- Chat -----------------------------------------------------------------------------------------------------------


def user(*parts):
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


PART = {"type": "image", "image": IMAGE}
ANSWER = {"role": "assistant", "content": "a dog"}


def test_chat_template_prints_the_text_parts(processor):
    messages = [user(PART, "where is the dog?")]
    assert processor.apply_chat_template(messages) == "where is the dog?"
    plain = processor(IMAGE, "where is the dog?")
    chat = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert set(chat) == set(plain)
    for name in plain:
        assert torch.equal(chat[name], plain[name]), name
    batch = processor.apply_chat_template([messages, messages], tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(batch["pixel_values"], plain["pixel_values"].expand(2, -1, -1, -1))
    assert processor.apply_chat_template(messages, tokenize=True).tolist() == plain["input_ids"].tolist()


def test_only_the_last_turn_of_a_chat_is_asked(processor):
    messages = [
        {"role": "system", "content": "answer briefly."},
        user(PART, "where is the dog?"),
        ANSWER,
        user("what is it?", "a cat?"),
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == "what is it? a cat?"
    plain = processor(IMAGE, "what is it? a cat?")
    chat = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    for name in plain:
        assert torch.equal(chat[name], plain[name]), name
    assert chat["level_ids"].tolist() == [1]  # the earlier turn, of the other level, has no say
    # plain strings, and an image of another turn
    words = [{"role": "user", "content": "what is it?"}]
    assert (
        processor.apply_chat_template(words, tokenize=True).tolist()
        == processor(text="what is it?")["input_ids"].tolist()
    )
    other = {"type": "image_url", "image_url": {"url": "data:,x"}}
    with pytest.raises(ValueError, match="data:,x' holds no readable image"):
        processor.apply_chat_template([*messages, ANSWER, user(other, "and this?")], tokenize=True)


def test_the_saved_template_agrees_by_itself(processor):
    """Servers render `chat_template.jinja` without the processor's Python."""
    render = processor.tokenizer.apply_chat_template
    options = {"chat_template": processor.chat_template, "tokenize": False}
    messages = [user(PART, "where is the dog?"), ANSWER, user("what is it?", "a cat?")]
    assert render(messages, **options) == "what is it? a cat?"
    assert render([{"role": "user", "content": "what?"}], **options) == "what?"
    with pytest.raises(Exception, match="role user"):
        render([user("what?"), ANSWER], **options)


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([user(PART)], {}, "must end with a message that holds text"),
        ([user(PART, " ")], {}, "must end with a message that holds text"),
        ([{"role": "user", "content": ""}], {}, "must end with a message that holds text"),
        ([user("a"), ANSWER], {}, "must end with a message of the role 'user', got 'assistant'"),
        ([user(PART, PART, "a")], {}, "holds 2 images"),
        ([user(PART, "a"), ANSWER, user(PART, "b"), ANSWER, user("c")], {}, "holds 2 images"),
        ([user({"type": "video", "url": "x"}, "a")], {}, "must hold parts"),
        ([{"role": "user"}], {}, r"conversation\[0\] must be a dict with 'role' and 'content'"),
        ([], {}, "must be a list of messages"),
        ("a", {}, "must be a list of messages"),
        ([[user("a")], []], {}, r"conversation\[1\] must hold messages"),
        ([user("a")], {"return_assistant_tokens_mask": True}, "`return_assistant_tokens_mask` is not offered"),
        ([user("a")], {"continue_final_message": True}, "`continue_final_message` is not offered"),
        ([user("a")], {"return_offsets_mapping": True}, "`return_offsets_mapping` is not offered"),
        ([[user(PART, "a")], [user("b")]], {}, r"conversation\[1\] holds no image"),
    ],
)
def test_chats_that_cannot_be_asked(processor, messages, options, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(messages, tokenize=True, return_dict=True, **options)


def test_arguments_of_the_processor_reach_it_from_a_chat(processor):
    messages = [user(PART, "what is it?")]
    for options in ({"tags": "dog", "size": 14}, {"processor_kwargs": {"tags": "dog", "size": 14}}):
        chat = processor.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
        assert marked(chat) == [(0, SOFT)]
        assert chat["pixel_values"].shape[-1] == 14


# --- What a tokenizer offers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["max_length", "longest", False])
def test_labels_follow_padding(make_processor, padding):
    processor = make_processor(max_answer_length=6)
    output = processor(text=["a", "b"], answers=["cat", "a dog"], padding=padding, return_tensors=None)
    lengths = [len(row) for row in output["labels"]]
    ids = [ids_of(processor, "cat"), ids_of(processor, "a dog")]
    longest = max(map(len, ids))
    assert lengths == {"max_length": [6, 6], "longest": [longest] * 2, False: [len(row) for row in ids]}[padding]
    assert processor(text="a", answers="b", pad_to_multiple_of=4)["labels"].shape == (1, 4)


def test_text_target_is_another_name_of_answers(processor):
    expected = processor(text="a", answers="a dog")["labels"]
    assert torch.equal(processor(text="a", text_target="a dog")["labels"], expected)
    assert torch.equal(processor(text="a", text_kwargs={"text_target": "a dog"})["labels"], expected)
    with pytest.raises(ValueError, match="`text_target` is another name of `answers`"):
        processor(text="a", answers="b", text_target="b")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"add_special_tokens": False}, ValueError, "`add_special_tokens` is not offered.*end token"),
        ({"text_pair": "b"}, ValueError, "`text_pair` is not offered"),
        ({"text_kwargs": {"stride": 3}}, ValueError, "`stride` is not offered"),
        ({"is_split_into_words": True}, ValueError, "`is_split_into_words`"),
        ({"return_offsets_mapping": True}, ValueError, "`return_offsets_mapping`"),
        ({"return_overflowing_tokens": True}, ValueError, "`return_overflowing_tokens`"),
        ({"return_attention_mask": False}, ValueError, "`return_attention_mask`"),
        ({"answer": "b"}, TypeError, "takes no argument 'answer'"),
        ({"max_length": -5}, ValueError, "max_length must be an integer that is at least 2, got -5"),
        ({"max_length": 0}, ValueError, "max_length"),
        ({"max_length": True}, ValueError, "max_length"),
        ({"text_kwargs": {"max_length": 1.5}}, ValueError, "max_length"),
        ({"padding_side": "LEFT"}, ValueError, "padding_side must be one of 'left', 'right', got 'LEFT'"),
        ({"truncation": "x"}, ValueError, "truncation must be one of"),
        ({"truncation": 1}, ValueError, "truncation must be one of"),
        ({"padding": []}, ValueError, "padding must be one of"),
        ({"pad_to_multiple_of": -3}, ValueError, "pad_to_multiple_of must be a positive integer"),
        ({"return_tensors": "tf"}, ValueError, "return_tensors must be one of"),
        ({"padding": False, "text": ["a", "a dog"]}, ValueError, "`input_ids` has rows of different lengths"),
    ],
)
def test_arguments_of_tokenizers_are_honoured_or_refused(processor, arguments, error, message):
    with pytest.raises(error, match=message):
        processor(**{"text": "a", **arguments})


def test_every_argument_of_a_tokenizer_is_known():
    """What a later version of transformers adds is to be looked at."""
    honoured = {"text_target", "padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side"}
    honoured |= {"return_tensors", "verbose"}
    assert set(TextKwargs.__annotations__) <= honoured | set(processing_lion._REFUSED_TEXT_KWARGS)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(
        ["max_length", "padding", "truncation", "padding_side", "pad_to_multiple_of", "return_tensors"]
    ),
    value=st.one_of(st.none(), st.booleans(), st.integers(-3, 200), st.floats(), st.text(max_size=4), st.just([])),
)
def test_any_value_gives_rows_or_an_error_that_names_the_argument(processor, name, value):
    problem, rows = "", []
    try:
        rows = processor(text=["a dog", "what is it?"], **{name: value})["input_ids"]
    except ValueError as error:
        problem = str(error)
    if len(rows) == 0:
        assert name in problem or "return_tensors" in problem
    assert all(len(row) >= 2 for row in rows)


# --- Padding later --------------------------------------------------------------------------------------------------

TEXTS = ["what is it?", "what is the dog doing on the table?", "where?"]
TAGS = ["dog", None, ["cat", SOFT_PROMPT_TOKEN]]
ANSWERS = ["a", "b c d", "[0.1,0.2,0.3,0.4]"]


def rows_of(processor, **options):
    """Rows as `dataset.map` keeps them: made one by one."""
    rows = []
    for text, tags, answer in zip(TEXTS, TAGS, ANSWERS):
        row = processor(text=text, tags=[tags], answers=answer, images=IMAGE, return_tensors=None, **options)
        rows.append({name: np.asarray(value[0]).tolist() for name, value in row.items()})
    return rows


@pytest.mark.parametrize("padding", [False, "longest", "max_length"])
@pytest.mark.parametrize("how", ["processor", "tokenizer", "collator of the processor", "collator of the tokenizer"])
def test_rows_are_padded_later(processor, padding, how):
    rows = rows_of(processor, padding=padding)
    if how == "processor":
        batch = processor.pad(rows, return_tensors="pt")
    elif how == "tokenizer":
        if padding == "longest":
            pytest.skip("a tokenizer pads no instructions for the Q-Former")
        rows = [{name: value for name, value in row.items() if name != "labels"} for row in rows]
        batch = processor.tokenizer.pad(rows, return_tensors="pt")
    else:
        if padding == "longest" and how.endswith("tokenizer"):
            pytest.skip("a tokenizer pads no instructions for the Q-Former")
        batch = DataCollatorForSeq2Seq(processor if how.endswith("processor") else processor.tokenizer)(rows)
    expected = processor(text=TEXTS, tags=TAGS, answers=ANSWERS, images=[IMAGE] * 3)
    for name in ("input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask", "labels"):
        if name in batch:
            width = expected[name].shape[1]
            assert torch.equal(batch[name][:, :width], expected[name]), name
            pad = {"labels": -100, "input_ids": processor.tokenizer.pad_token_id}.get(name, 0)
            assert (batch[name][:, width:] == pad).all(), name
    for name in ("level_ids", "soft_prompt_mask", "pixel_values"):
        assert torch.equal(torch.as_tensor(batch[name]), expected[name]), name
    assert marked(batch) == [(0, SOFT), (2, SOFT)]


def test_pad_by_itself(processor):
    columns = {name: [row[name] for row in rows_of(processor, padding=False)] for name in ("input_ids",)}
    batch = processor.pad(columns, padding="max_length", max_length=50, pad_to_multiple_of=16, padding_side="left")
    assert [len(row) for row in batch["input_ids"]] == [64] * 3
    assert [row[0] for row in batch["attention_mask"]] == [0] * 3
    for rows, message in [
        ([], "at least one row"),
        ([{"labels": [1]}], "must hold `input_ids`"),
        ([{"input_ids": [1]}, {}], "the same keys in all rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor.pad(rows)
    with pytest.raises(ValueError, match="padding must be"):
        processor.pad(columns, padding="x")


# --- Text that is none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"text": "a \ud83d"}, "text"),
        ({"text": ["a", "\ud83d"]}, r"text\[1\]"),
        ({"text": "a", "tags": "dog, \ud83d"}, "tags"),
        ({"text": ["a", "b"], "tags": [None, ["dog", "\ud83d"]]}, r"tags\[1\]"),
        ({"text": "a", "answers": "\ud83d"}, "answers"),
    ],
)
def test_a_lone_surrogate_is_an_error_that_names_the_argument(processor, arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must be text, but holds a lone surrogate, '.ud83d', at position"):
        processor(**arguments)


def test_columns_of_data_sets_are_lists_of_texts(processor):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": TEXTS, "answer": ANSWERS})
    output = processor(text=table["text"], answers=table["answer"])
    expected = processor(text=TEXTS, answers=ANSWERS)
    assert all(torch.equal(output[name], expected[name]) for name in expected)
    assert torch.equal(processor(text=np.array(TEXTS))["input_ids"], expected["input_ids"])


def test_text_that_the_tokenizer_does_not_know_warns_once(make_processor, caplog):
    processor = make_processor()
    monitored = logging.getLogger("transformers")
    monitored.addHandler(caplog.handler)
    try:
        processor(text="what is the dog doing?")
        assert "unknown" not in caplog.text
        processor(text="这 是 什么 ？ 狗")
        assert re.search(r"\d\d% of the text's tokens are unknown to the tokenizer", caplog.text)
        caplog.clear()
        processor(text="这 是 什么 ？ 狗")
        assert "unknown" not in caplog.text
    finally:
        monitored.removeHandler(caplog.handler)
