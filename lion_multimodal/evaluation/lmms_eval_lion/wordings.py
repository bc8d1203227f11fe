"""
What lmms-eval's tasks ask, in the words that LION was trained with.

lmms-eval words its questions for chat models. A task can hold other words for a model, but only in lmms-eval's own
files. LION was trained with InstructBLIP's and Shikra's instructions; its published figures rest on these.
"""

from __future__ import annotations

from dataclasses import dataclass

from processing_lion.prompts_lion import format_prompt


@dataclass(frozen=True)
class Wording:
    """
    How lmms-eval asks something.

    Attributes:
        before, after: what its tasks put around the question.
        prompt: the key of `PROMPT_TEMPLATES` that says the same.
        field: the template's field for the question; `None` where all is said by `before`.
    """

    before: str
    after: str
    prompt: str
    field: str | None


_SHORT = "\nAnswer the question using a single word or phrase."

# In lmms-eval 0.7.3. Where two fit, the first one counts.
WORDINGS = (
    # OK-VQA, VizWiz
    Wording(
        "",
        f"\nWhen the provided information is insufficient, respond with 'Unanswerable'.{_SHORT}",
        "vqa",
        "question",
    ),
    # POPE, GQA, VQAv2, MME and many more
    Wording("", _SHORT, "vqa", "question"),
    # SEED-Bench by likelihood
    Wording("", " Answer :", "vqa", "question"),
    # RefCOCO, RefCOCO+, RefCOCOg: refcoco_bbox_rec_...
    Wording(
        "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right "
        "y). All values are floating point numbers bounded between 0 and 1. Please provide the bounding box "
        "coordinate of the region this sentence describes: ",
        "",
        "rec",
        "expression",
    ),
    # Flickr30K, COCO
    Wording("Provide a one-sentence caption for the provided image.", "", "caption_short", None),
)


def reword(text: str) -> str:
    """The question in LION's words; as it stands where there are none for it."""
    for wording in WORDINGS:
        if wording.field is None:
            if text == wording.before:
                return format_prompt(wording.prompt)
        elif text.startswith(wording.before) and text.endswith(wording.after):
            question = text[len(wording.before) : len(text) - len(wording.after)].strip()
            if question:
                return format_prompt(wording.prompt, **{wording.field: question})
    return text
