"""What lmms-eval asks, in LION's words."""

import pytest

from lion_multimodal.evaluation.lmms_eval_lion.wordings import WORDINGS, reword
from processing_lion.levels_lion import infer_level
from processing_lion.prompts_lion import PROMPT_TEMPLATES


REC = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the "
    "region this sentence describes: "
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Is there a dog in the image?\nAnswer the question using a single word or phrase.",
            "Question: Is there a dog in the image? Short answer:",
        ),
        (
            "What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\nAnswer the "
            "question using a single word or phrase.",
            "Question: What is it? Short answer:",
        ),
        ("How many {dogs}? Answer :", "Question: How many {dogs}? Short answer:"),
        (f"{REC}man in red ", "In the image <image>, can you locate man in red and let me know its coordinates?"),
        (
            "Provide a one-sentence caption for the provided image.",
            "Please describe the image using a single short sentence.",
        ),
    ],
)
def test_rewording(text, expected):
    assert reword(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is it?",
        "\nAnswer the question using a single word or phrase.",
        REC,
        "Provide a one-sentence caption for the provided image. Be brief.",
        "A or B?\nA. a\nB. b\nAnswer with the option's letter from the given choices directly.",
    ],
)
def test_what_has_no_other_words_stays(text):
    assert reword(text) == text


def test_levels_stay_what_the_templates_say():
    for wording in WORDINGS:
        asked = reword(f"{wording.before}the dog{wording.after}" if wording.field else wording.before)
        assert infer_level(asked) == PROMPT_TEMPLATES[wording.prompt].level
