"""What transformers' common tests (`ProcessorTesterMixin`, `ImageProcessingTestMixin`) ask of every processor."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from processing_lion import LionImageProcessor, LionProcessor, add_qformer_bos_token
from processing_lion.processing_lion import LionProcessorKwargs

from .conftest import FIXTURES


IMAGES = [Image.new("RGB", (9, 6), color) for color in ("green", "red")]


# --- The image processor --------------------------------------------------------------------------------------------


@pytest.fixture(params=["LION", "tagging"])
def image_processor(request):
    return LionImageProcessor(size=14) if request.param == "LION" else LionImageProcessor.for_tagging(size=14)


def test_image_processor_in_json(image_processor, tmp_path):
    read = json.loads(image_processor.to_json_string())
    for name, value in image_processor.to_dict().items():
        if not name.startswith("_"):  # transformers 4 leaves those out
            assert read[name] == value, name
    image_processor.to_json_file(tmp_path / "image_processor.json")
    assert LionImageProcessor.from_json_file(tmp_path / "image_processor.json").to_dict() == image_processor.to_dict()
    image_processor.save_pretrained(tmp_path)
    changed = LionImageProcessor.from_pretrained(tmp_path, size=7, do_normalize=False)
    assert (changed.size, changed.do_normalize) == ({"height": 7, "width": 7}, False)


@pytest.mark.parametrize("kind", ["PIL", "numpy", "torch", "torch batch"])
def test_image_processor_takes_every_kind(image_processor, kind):
    arrays = [np.asarray(image) for image in IMAGES]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    images = {"PIL": IMAGES, "numpy": arrays, "torch": tensors, "torch batch": torch.stack(tensors)}[kind]
    batch = image_processor(images, return_tensors="pt").pixel_values
    assert batch.shape == (2, 3, 14, 14)
    assert torch.equal(batch, image_processor(IMAGES, return_tensors="pt").pixel_values)
    assert torch.equal(image_processor(images[0], return_tensors="pt").pixel_values, batch[:1])
    assert np.array_equal(image_processor(images, return_tensors="np").pixel_values, batch.numpy())


def test_image_processor_takes_four_channels_and_casts(image_processor):
    batch = image_processor(np.full((2, 6, 9, 4), 255, np.uint8), return_tensors="pt")
    assert batch.pixel_values.shape == (2, 3, 14, 14)
    assert batch.to("cpu", torch.float16).pixel_values.dtype == torch.float16
    assert batch.to(torch.bfloat16).pixel_values.dtype == torch.bfloat16


# --- The processor --------------------------------------------------------------------------------------------------


def make(**tokenizer_settings):
    return LionProcessor(
        LionImageProcessor(size=14, do_rescale=True),
        AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "t5", **tokenizer_settings),
        add_qformer_bos_token(AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "bert")),
    )


def test_processor_is_saved_and_loaded_with_all_of_its_parts(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = LionProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    for name in ("tokenizer", "qformer_tokenizer"):
        assert getattr(loaded, name).get_vocab() == getattr(processor, name).get_vocab()
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert LionProcessor.from_pretrained(tmp_path, max_answer_length=7).max_answer_length == 7


def test_processor_names_what_the_model_takes(processor):
    assert set(processor(IMAGES[0], "what is it?")) == set(processor.model_input_names)
    assert processor.valid_processor_kwargs is LionProcessorKwargs


def test_the_parts_own_settings_hold_until_a_call_gives_others():
    processor = make(max_length=117, padding="max_length")
    output = processor(IMAGES[0], "what is it?")
    assert output["pixel_values"].shape == (1, 3, 14, 14)
    assert processor(text="what is it?", padding="max_length")["input_ids"].shape == (1, 117)
    assert processor(text="what is it?", padding="max_length", max_length=112)["input_ids"].shape == (1, 112)
    assert processor(IMAGES[0], "what is it?", size=7)["pixel_values"].shape == (1, 3, 7, 7)


def test_nested_arguments_are_those_of_a_call(processor):
    flat = processor(IMAGES, ["a", "b"], size=7, do_rescale=False, padding="max_length", max_length=40)
    nested = processor(
        IMAGES,
        ["a", "b"],
        images_kwargs={"size": 7, "do_rescale": False},
        text_kwargs={"padding": "max_length", "max_length": 40},
        common_kwargs={"return_tensors": "pt"},
    )
    assert set(flat) == set(nested)
    for name in flat:
        assert torch.equal(flat[name], nested[name]), name


@pytest.mark.parametrize(("group", "name", "value"), [("images_kwargs", "size", 7), ("text_kwargs", "padding", True)])
def test_arguments_that_are_given_twice_are_refused(processor, group, name, value):
    with pytest.raises(ValueError, match=name):
        processor(IMAGES[0], "a", **{name: value, group: {name: value}})


def test_processor_decodes_what_a_pipeline_hands_it(processor):
    ids = processor(text="a", answers="a woman")["labels"]
    assert processor.post_process_image_text_to_text(ids, skip_special_tokens=True) == ["a woman"]
