"""The shipped checkpoints, on held-out images. The figures in the docs come from many more."""

from functools import partial

import pytest

from laboratory.world.evaluate_world import answer_all, held_out, score_tagger, score_task, tag_scenes
from laboratory.world.language import TAGS
from laboratory.world.tokenizer import write_qformer_tokenizer, write_t5_tokenizer
from lion_multimodal import checkpoints
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion.processing_lion import CHAT_TEMPLATE, LionProcessor


# By name: how many objects the fullest image of its world holds.
MOST_OBJECTS = {"nano": None, "nano-staged": 3}


@pytest.fixture(scope="module", params=MOST_OBJECTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def directory(name):
    return checkpoints.path(name)


@pytest.fixture(scope="module")
def model(directory):
    return LionForConditionalGeneration.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def processor(directory):
    return LionProcessor.from_pretrained(directory)


@pytest.fixture(scope="module")
def tagger(directory):
    return RamForImageTagging.from_pretrained(directory / "tagger").eval()


# Well below what is measured on 2,000 images and well above chance, so that no honest change fails by bad luck.
@pytest.mark.parametrize(
    ("task", "least"),
    [
        ("caption", 0.9),
        ("color", 0.9),
        ("object", 0.9),
        ("count", 0.75),
        ("side", 0.85),
        ("direction", 0.65),
        ("relation", 0.85),
        ("rec", 0.9),
        ("reg", 0.9),
    ],
)
def test_answers_on_held_out_images(name, model, processor, tagger, task, least):
    cases = list(held_out(task, 60, most_objects=MOST_OBJECTS[name]))
    score = score_task(task, cases, answer_all(model, processor, cases, partial(tag_scenes, tagger)))[0]
    assert score.value > least


def test_tags_of_held_out_images(tagger):
    assert tagger.config.tags == list(TAGS)
    assert score_tagger(tagger, 60, "test").value > 0.9


def test_tokenizers_are_those_that_the_world_writes(processor, tmp_path):
    assert processor.tokenizer.get_vocab() == write_t5_tokenizer(tmp_path / "t5").get_vocab()
    assert processor.qformer_tokenizer.get_vocab() == write_qformer_tokenizer(tmp_path / "bert").get_vocab()


def test_the_processor_is_as_the_package_makes_it(processor):
    assert processor.chat_template == CHAT_TEMPLATE


def test_layout_and_size(directory, model):
    assert model.config.visual_branches == ["qformer", "aggregator"]
    assert model.config.adapter_config.adapters == ["region_level", "image_level"]
    assert model.generation_config.repetition_penalty == 1.0  # coordinates and colours repeat
    assert sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) < 25e6
