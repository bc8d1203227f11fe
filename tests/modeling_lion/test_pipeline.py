import logging

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from configuration_lion import RamConfig
from modeling_lion import (
    LionForConditionalGeneration,
    LionImageToTextPipeline,
    LionTagger,
    RamForImageTagging,
    save_lion,
)
from processing_lion import LionImageProcessor, LionProcessor, add_qformer_bos_token, format_prompt
from tests.golden import FIXTURES


TAGS = ["dog", "cat", "red ball"]
FEW = {"max_new_tokens": 5, "num_beams": 2}


@pytest.fixture(scope="module")
def processor(lion) -> LionProcessor:
    return LionProcessor(
        LionImageProcessor(size=lion.config.vision_config.image_size),
        AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "t5"),
        add_qformer_bos_token(AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "bert")),
    )


@pytest.fixture(scope="module")
def tagger() -> LionTagger:
    vision = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
    config = RamConfig.from_preset(
        "nano",
        vision_config=vision,
        hidden_size=16,
        intermediate_size=24,
        projection_dim=12,
        tags=["dog ", "cat", "red ball"],
        thresholds=[0.0, 1.0, 0.0],
    )
    return LionTagger(RamForImageTagging(config), LionImageProcessor.for_tagging(size=32))


@pytest.fixture
def pipe(lion, processor, tagger) -> LionImageToTextPipeline:
    return LionImageToTextPipeline(model=lion, processor=processor, tagger=tagger)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    round_one = Image.radial_gradient("L").resize((80, 60)).convert("RGB")
    return [round_one, Image.linear_gradient("L").resize((50, 90)).convert("RGB"), round_one.rotate(90, expand=True)]


def answer(lion, processor, image, **kwargs) -> str:
    """The long way."""
    ids = lion.generate(**processor(images=image, **kwargs), **FEW)
    return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def spy_on_texts(pipe, monkeypatch) -> list[dict]:
    """What the pipeline gives the processor as text, batch by batch."""
    batches, call = [], type(pipe.processor).__call__

    def spy(self, images=None, text=None, **kwargs):
        if text is not None:
            batches.append({"text": text, **kwargs})
        return call(self, images=images, text=text, **kwargs)

    monkeypatch.setattr(type(pipe.processor), "__call__", spy)
    return batches


def say(pipe, monkeypatch, *texts: str) -> None:
    """Make the model answer `texts`, one after another; ids are places in `texts`, for the tokenizer here is tiny."""
    places = iter(range(len(texts)))

    def generate(input_ids, **kwargs):
        return torch.tensor([[next(places)] for _ in input_ids])

    monkeypatch.setattr(pipe.model, "generate", generate)
    monkeypatch.setattr(pipe.processor, "batch_decode", lambda ids, **kwargs: [texts[row[0]] for row in ids])


def test_a_question_is_answered_as_by_model_and_processor(pipe, lion, processor, pictures):
    result = pipe(pictures[0], prompt="what is it?", tags=TAGS, generate_kwargs=FEW)
    assert result == [{"generated_text": answer(lion, processor, pictures[0], text="what is it?", tags=TAGS)}]


def test_without_tags_the_tagger_is_asked(pipe, pictures, monkeypatch):
    batches = spy_on_texts(pipe, monkeypatch)
    pipe(pictures, prompt="what is it?", generate_kwargs=FEW, batch_size=2)
    assert [batch["tags"] for batch in batches] == [[["dog", "red ball"]] * 2, [["dog", "red ball"]]]


def test_tags_given_or_declined_are_not_asked_for(pipe, pictures, monkeypatch):
    def refuse(*args):
        raise AssertionError("the tagger was asked")

    monkeypatch.setattr(pipe.tagger, "tag_pixel_values", refuse)
    batches = spy_on_texts(pipe, monkeypatch)
    pipe(pictures[0], tags=False, generate_kwargs=FEW)
    pipe(pictures[0], tags="a, b", generate_kwargs=FEW)
    pipe(pictures[:2], tags=[["a"], False], generate_kwargs=FEW, batch_size=2)
    pipe([{"image": pictures[0], "tags": "c"}], generate_kwargs=FEW)
    assert [batch["tags"] for batch in batches] == [[None], ["a, b"], [["a"], None], ["c"]]


def test_only_images_without_tags_go_to_the_tagger(pipe, pictures, monkeypatch):
    batches = spy_on_texts(pipe, monkeypatch)
    samples = [{"image": pictures[0], "tags": ["cat"]}, pictures[1], {"image": pictures[2], "tags": False}]
    pipe(samples, generate_kwargs=FEW, batch_size=3)
    assert batches[0]["tags"] == [["cat"], ["dog", "red ball"], None]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_give_what_single_images_give(pipe, pictures, batch_size):
    prompts = ["what is it?", "locate the cat that sits on the red ball", "who?"]
    single = [pipe(image, prompt=prompt, generate_kwargs=FEW) for image, prompt in zip(pictures, prompts)]
    assert pipe(pictures, prompt=prompts, generate_kwargs=FEW, batch_size=batch_size) == single
    assert len({result[0]["generated_text"] for result in single}) > 1


def test_several_questions_about_one_image(pipe, pictures):
    prompts = ["what is it?", "locate the cat"]
    single = [pipe(pictures[0], prompt=prompt, generate_kwargs=FEW) for prompt in prompts]
    assert pipe(pictures[0], prompt=prompts, generate_kwargs=FEW) == single


def test_every_form_of_a_image(pipe, pictures, tmp_path):
    file = tmp_path / "picture.png"
    pictures[0].save(file)
    expected = pipe(pictures[0], tags="dog", generate_kwargs=FEW)
    for form in (str(file), file, file.read_bytes(), {"image": file}):
        assert pipe(form, tags="dog", generate_kwargs=FEW) == expected
    assert list(pipe((image for image in [file, pictures[0]]), tags="dog", generate_kwargs=FEW)) == [expected] * 2


def test_prompt_and_task_reach_the_processor(pipe, pictures, monkeypatch):
    batches = spy_on_texts(pipe, monkeypatch)
    pipe(pictures[0], generate_kwargs=FEW)
    pipe(pictures[:2], prompt="hello", level=["region_level", "image_level"], generate_kwargs=FEW, batch_size=2)
    assert batches[0]["text"] == [format_prompt("caption_short")]
    assert batches[0]["level"] == ["auto"]
    assert batches[1]["text"] == ["hello"] * 2
    assert batches[1]["level"] == ["region_level", "image_level"]


def test_defaults_given_at_the_start_hold_until_a_call_gives_others(lion, processor, pictures, monkeypatch):
    pipe = LionImageToTextPipeline(model=lion, processor=processor, tagger=False, prompt="hello", generate_kwargs=FEW)
    batches = spy_on_texts(pipe, monkeypatch)
    first = pipe(pictures[0], tags="dog")
    assert first[0]["generated_text"] == answer(lion, processor, pictures[0], text="hello", tags="dog")
    pipe(pictures[0], prompt="bye")
    assert batches[-1]["text"] == ["bye"]


def test_boxes_are_pixels_of_the_image_as_given(pipe, pictures, monkeypatch):
    say(pipe, monkeypatch, "a dog [0.100,0.200,0.500,0.600]", "no box", "[0.5,0.5,1.0,1.0]")
    results = pipe(pictures, tags="dog", batch_size=2)
    box = torch.tensor(results[0][0].pop("boxes"))
    torch.testing.assert_close(box, torch.tensor([[8.0, 12.0, 40.0, 36.0]]))  # of 80 x 60
    assert results[0][0].pop("labels") == ["a dog"]
    assert results[0][0]["generated_text"].startswith("a dog [")
    assert results[1] == [{"generated_text": "no box"}]
    torch.testing.assert_close(torch.tensor(results[2][0]["boxes"]), torch.tensor([[30.0, 40.0, 60.0, 80.0]]))
    assert results[2][0]["labels"] == [""]


def test_each_returned_sequence_is_a_result(pipe, pictures):
    options = {"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 3, "return_dict_in_generate": True}
    results = pipe(pictures[:2], tags="dog", generate_kwargs=options, batch_size=2)
    assert [len(result) for result in results] == [3, 3]
    best = pipe(pictures[0], tags="dog", generate_kwargs={**options, "num_return_sequences": 1})
    assert results[0][0] == best[0]


def test_save_and_load_with_the_tagger(pipe, pictures, tmp_path, caplog):
    expected = pipe(pictures[0], generate_kwargs=FEW)
    pipe.save_pretrained(tmp_path)
    model = LionForConditionalGeneration.from_pretrained(tmp_path)
    loaded = LionImageToTextPipeline(model=model, processor=LionProcessor.from_pretrained(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert loaded(pictures[0], generate_kwargs=FEW) == expected
    assert not [record for record in caplog.records if "tag" in record.message]
    assert loaded.tagger([pictures[0]]) == [["dog", "red ball"]]

    elsewhere = LionImageToTextPipeline(model=model, processor=loaded.processor, tagger=tmp_path / "tagger")
    assert elsewhere.tagger([pictures[0]]) == [["dog", "red ball"]]


def test_a_repo_without_tagger_gets_no_tags_and_one_warning(lion, processor, pictures, tmp_path, monkeypatch, caplog):
    save_lion(tmp_path, lion, processor)
    model = LionForConditionalGeneration.from_pretrained(tmp_path)
    pipe = LionImageToTextPipeline(model=model, processor=processor)
    batches = spy_on_texts(pipe, monkeypatch)
    with caplog.at_level(logging.WARNING):
        pipe(pictures[0], generate_kwargs=FEW)
        pipe(pictures[1], generate_kwargs=FEW)
    assert [batch["tags"] for batch in batches] == [[None], [None]]
    assert len([record for record in caplog.records if "No tags" in record.message]) == 1
    pipe.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "tagger").exists()


def test_a_tagger_that_was_asked_for_must_be_there(lion, processor, pictures, tmp_path):
    pipe = LionImageToTextPipeline(model=lion, processor=processor, tagger=tmp_path)
    with pytest.raises(OSError, match="has no tagger"):
        pipe(pictures[0])


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (2, {"prompt": ["a"]}, "`prompt` has 1 entries for 2 images"),
        (2, {"tags": ["a", "b", "c"]}, "`tags` has 3 entries for 2 images"),
        (1, {"max_new_tokens": 3, "generate_kwargs": {"max_new_tokens": 3}}, "`max_new_tokens` is given twice"),
        ({"picture": 1}, {}, "a dict must have `image`"),
        ({"image": "x.png", "promt": "?"}, {}, "may have prompt, tags, level"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(pipe, pictures, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(pictures[:inputs] if isinstance(inputs, int) else inputs, **options)


def test_a_image_that_is_not_there_is_named(pipe):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        pipe("nowhere.png")


def test_a_tagger_without_its_preprocessing_is_refused(lion, processor, tagger):
    with pytest.raises(TypeError, match="`tagger` must be a LionTagger"):
        LionImageToTextPipeline(model=lion, processor=processor, tagger=tagger.model)


def test_the_processor_is_needed(lion):
    with pytest.raises(ValueError, match="`processor` is needed"):
        LionImageToTextPipeline(model=lion)


def test_any_argument_of_generation_may_be_given(pipe, pictures, monkeypatch):
    seen = []
    monkeypatch.setattr(pipe.model, "generate", lambda **kwargs: (seen.append(kwargs), torch.tensor([[1]]))[1])
    pipe(pictures[0], tags=False, num_beams=2, temperature=0.7, do_sample=True, max_new_tokens=3, length_penalty=None)
    given = {"num_beams": 2, "temperature": 0.7, "do_sample": True, "max_new_tokens": 3}
    assert {name: value for name, value in seen[0].items() if name in given} == given
    assert "length_penalty" not in seen[0]


def test_an_argument_that_is_none_of_generation_is_named(pipe, pictures):
    with pytest.raises(TypeError, match="num_beans"):
        pipe(pictures[0], tags=False, num_beans=2)
    with pytest.raises(ValueError, match="num_beams.*twice"):
        pipe(pictures[0], tags=False, num_beams=2, generate_kwargs={"num_beams": 3})


@pytest.mark.parametrize("as_generator", [False, True])
def test_an_unreadable_image_of_several_is_named_with_its_place(pipe, pictures, as_generator):
    sources = [pictures[0], "nope.png", pictures[1]]
    with pytest.raises(FileNotFoundError, match=r"images\[1\].*nope\.png"):
        list(pipe((source for source in sources) if as_generator else sources, tags=False, generate_kwargs=FEW))
    with pytest.raises(ValueError, match=r"images\[1\]"):
        pipe([pictures[0], b"garbage"], tags=False, generate_kwargs=FEW)


@pytest.mark.parametrize("argument", [0, 1.5, True])
def test_a_task_that_is_no_name_is_refused(pipe, pictures, argument):
    with pytest.raises((TypeError, ValueError), match="`task`|`level`"):
        pipe(pictures[0], tags=False, task=argument)


def test_a_model_without_all_its_weights_is_refused(lion, processor, tmp_path):
    lion.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["soft_prompt.weight"]
    save_file({**weights, "stray.weight": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    model = LionForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not whole.*no weights for soft_prompt\.weight.*stray\.weight"):
        LionImageToTextPipeline(model=model, processor=processor, tagger=False)
    with torch.no_grad():
        model.soft_prompt.weight.add_(1.0)  # trained since
    assert model.loading_problems() == ["the files hold weights that the configuration has no place for: stray.weight"]


def test_leaving_adapters_out_is_no_fault(lion, processor, tmp_path):
    lion.save_pretrained(tmp_path)
    model = LionForConditionalGeneration.from_pretrained(tmp_path, adapter_config={"adapters": []})
    assert model.loading_problems() == []
    assert LionForConditionalGeneration.from_pretrained(tmp_path).loading_problems() == []
    _, info = LionForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]


def test_a_directory_without_configuration_is_no_checkpoint(lion, tmp_path):
    lion.save_pretrained(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "adapter_config.json")
    with pytest.raises(OSError, match=r"is an adapter.*no config\.json"):
        LionForConditionalGeneration.from_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(OSError, match=r"no file named config\.json"):
        LionForConditionalGeneration.from_pretrained(tmp_path)


def test_tagger_of_nothing_and_with_scores(tagger, pictures):
    assert tagger([]) == []
    assert tagger.scores([]) == []
    assert tagger(pictures[0], thresholds=0.0) == [["dog", "cat", "red ball"]]
    assert tagger(pictures[0], thresholds=1.0) == [[]]
    (scores,) = tagger.scores(pictures[0], thresholds=0.0)
    assert set(scores) == {"dog", "cat", "red ball"}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
