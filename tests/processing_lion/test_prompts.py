"""Prompt templates and the tag sentence."""

import json

import pytest

from processing_lion import LEVELS, PROMPT_TEMPLATES, SOFT_PROMPT_TOKEN, format_prompt, format_tags


def test_tag_sentence_gives_the_official_prompts(golden_inputs):
    for question, tags, prompt in zip(golden_inputs["questions"], golden_inputs["tags"], golden_inputs["prompts"]):
        assert format_tags(tags) + question == prompt
        assert format_tags(tags.split(", ") if tags else []) + question == prompt


def test_tags_are_data_not_format():
    assert "[{0}, {tags}, %s]" in format_tags(["{0}", "{tags}", "%s"])
    assert format_tags(SOFT_PROMPT_TOKEN).count(SOFT_PROMPT_TOKEN) == 2


def test_official_wordings(golden_inputs):
    caption, rec, vqa = golden_inputs["questions"]
    assert format_prompt("caption_short").lower() == caption
    assert format_prompt("rec", expression="the red square").lower() == rec
    assert format_prompt("vqa", question="what is left of the dog?").lower() == vqa


def test_every_template_has_a_task_and_a_source():
    assert set(PROMPT_TEMPLATES) == {
        "caption_short",
        "caption_long",
        "vqa",
        "vqa_choices",
        "vsr",
        "dialogue",
        "rec",
        "reg",
        "yes_no",
    }
    for name, template in PROMPT_TEMPLATES.items():
        assert template.level in LEVELS
        assert template.source
        assert (template.level == "region_level") == (name in ("rec", "reg"))
    json.dumps({name: vars(template) for name, template in PROMPT_TEMPLATES.items()})


def test_lists_become_text():
    assert (
        format_prompt("vqa_choices", question="what is it?", choices=["a dog", "a cat"])
        == "Question: what is it? Options: (a) a dog (b) a cat. Short answer:"
    )
    assert format_prompt("vqa_choices", question="what?", choices="dog, cat").endswith(
        "Options: dog, cat. Short answer:"
    )
    history = ["is it a dog?", "yes."]
    assert "Dialog history: is it a dog? yes." in format_prompt("dialogue", history=history, question="is it brown?")


def test_fields_may_hold_braces():
    assert format_prompt("vqa", question="what does {x} mean?") == "Question: what does {x} mean? Short answer:"


def test_errors_name_the_field():
    with pytest.raises(ValueError, match="task_name must be one of caption_short"):
        format_prompt("captions")
    with pytest.raises(ValueError, match="'vqa_choices' takes question, choices; got question"):
        format_prompt("vqa_choices", question="what?")
    with pytest.raises(ValueError, match="'caption_short' takes no fields; got question"):
        format_prompt("caption_short", question="what?")
    with pytest.raises(TypeError, match="'question'"):
        format_prompt("vqa", question=3)
    with pytest.raises(ValueError, match="26"):
        format_prompt("vqa_choices", question="what?", choices=["x"] * 27)
