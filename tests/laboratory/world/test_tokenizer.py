import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from laboratory.world.dataset import ask
from laboratory.world.language import TAGS, TASKS, scene_tags
from laboratory.world.scene import sample_scene
from laboratory.world.tokenizer import COORDINATES, write_qformer_tokenizer, write_t5_tokenizer
from processing_lion.prompts_lion import PROMPT_TEMPLATES, format_tags


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def t5(directory):
    return write_t5_tokenizer(directory / "t5")


@pytest.fixture(scope="module")
def bert(directory):
    return write_qformer_tokenizer(directory / "qformer")


def texts(seeds):
    for seed in seeds:
        scene = sample_scene(seed)
        for sample in ask(scene, tuple(TASKS), len(TASKS)):
            yield from (sample.prompt, sample.completion, format_tags(scene_tags(scene)) + sample.prompt)


def test_all_that_is_said_in_the_world_survives(t5):
    for text in texts(range(30)):
        ids = t5(text).input_ids
        assert ids[-1] == t5.eos_token_id
        assert t5.unk_token_id not in ids
        blanks = text if "<extra_id_0>" not in text else text.replace(" ", "")
        decoded = t5.decode(ids[:-1])
        assert (decoded if blanks == text else decoded.replace(" ", "")) == blanks.lower()


def test_the_world_is_read_word_by_word(t5):
    for text in texts(range(30)):
        text = text.split("tags: ")[-1].replace("<image>", " ")
        pieces = [piece.strip("▁") for piece in t5.tokenize(text)]
        words = re.findall(r"[a-z]+", text.lower())
        assert [piece for piece in pieces if piece.isalpha()] == words


def test_every_coordinate_is_one_piece(t5):
    for value in COORDINATES:
        assert t5.tokenize(f"[{value},0.500]") == ["▁[", value, ",", "0.500", "]"]
    assert len(set(COORDINATES)) == 97


def test_pieces_are_those_of_the_sentencepiece_model(t5, directory):
    original = SentencePieceProcessor(model_file=str(directory / "t5" / "spiece.model"))
    for text in texts(range(5)):
        if "<extra_id_0>" not in text:
            assert t5.tokenize(text) == original.encode(text, out_type=str)


def test_special_tokens(t5, bert):
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id) == (0, 1, 2)
    assert len(t5) - 1 == t5.convert_tokens_to_ids("<extra_id_0>")
    assert t5("<extra_id_0>").input_ids == [len(t5) - 1, 1]
    assert bert.bos_token == "[DEC]"
    assert bert.pad_token_id == 0
    assert bert.convert_ids_to_tokens(bert("a star").input_ids) == ["[CLS]", "a", "star", "[SEP]"]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20))
def test_any_ascii_text_is_tokenised(t5, bert, text):
    if "<" not in text:
        ids = t5(text, add_special_tokens=False).input_ids
        assert t5.unk_token_id not in ids
        assert t5.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower()
    if "[" not in text:
        assert bert.unk_token_id not in bert(text).input_ids


def test_every_prompt_template_is_in_the_vocabulary(t5):
    for template in PROMPT_TEMPLATES.values():
        text = re.sub(r"[<{]\w+[}>]", " ", template.text)
        pieces = [piece.strip("▁") for piece in t5.tokenize(text)]
        assert all(len(piece) > 1 or piece in ("a", "i") for piece in pieces if piece.isalpha()), template.text


def test_files_are_those_that_both_majors_read(t5, bert, directory):
    for name, kind in (("t5", "T5Tokenizer"), ("qformer", "BertTokenizer")):
        config = json.loads((directory / name / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == kind
        assert (directory / name / "tokenizer.json").is_file()
    assert len(TAGS) == np.unique(TAGS).size
