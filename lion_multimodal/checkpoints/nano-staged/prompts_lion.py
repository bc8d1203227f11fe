"""The words that LION is asked with: the tag sentence, and instructions by task."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


# The token whose embedding the learned soft prompt replaces.
SOFT_PROMPT_TOKEN = "<extra_id_0>"
# Official models/lion_t5.py; the paper's section 3.3. The blank at the end separates it from the instruction.
TAG_SENTENCE = (
    f"According to {SOFT_PROMPT_TOKEN}, you are allowed to use or partially use the following tags: [{{tags}}]. "
)


def format_tags(tags: str | Iterable[str]) -> str:
    """The tag sentence, ending in a blank, for tags given as a comma-separated string or one by one."""
    if not isinstance(tags, str):
        tags = ", ".join(tags)
    # No str.format: tags are data and may hold braces.
    return TAG_SENTENCE.replace("{tags}", tags)


@dataclass(frozen=True)
class PromptTemplate:
    """
    An instruction with `{named}` fields.

    Attributes:
        text: the instruction; `format_prompt` fills its fields.
        level: the level that the task is routed as, `"image_level"` or `"region_level"`.
        source: where the wording comes from.
    """

    text: str
    level: str
    source: str

    @property
    def task(self) -> str:
        """The former name of `level`."""
        return self.level

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in the order of the text."""
        return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.text) if name))


_PLAYGROUND = "official playground.ipynb"
_INSTRUCTBLIP = "InstructBLIP (arXiv 2305.06500), appendix on evaluation instructions"
_SHIKRA = "Shikra (arXiv 2306.15195), appendix on instruction templates"

PROMPT_TEMPLATES: dict[str, PromptTemplate] = {
    "caption_short": PromptTemplate(
        "Please describe the image using a single short sentence.", "image_level", f"{_PLAYGROUND}, captioning"
    ),
    "caption_long": PromptTemplate(
        "Please describe the image in detail.",
        "image_level",
        "after LLaVA (arXiv 2304.08485); LION's authors name none",
    ),
    "vqa": PromptTemplate("Question: {question} Short answer:", "image_level", f"{_INSTRUCTBLIP}: OKVQA, GQA"),
    "vqa_choices": PromptTemplate(
        "Question: {question} Options: {choices}. Short answer:", "image_level", f"{_INSTRUCTBLIP}: IconQA, A-OKVQA"
    ),
    "vsr": PromptTemplate(
        'Based on the image, is this statement true or false? "{statement}" Answer:',
        "image_level",
        f"{_INSTRUCTBLIP}: VSR; candidate answers are true and false",
    ),
    "dialogue": PromptTemplate(
        "Dialog history: {history}\nQuestion: {question} Short answer:", "image_level", f"{_INSTRUCTBLIP}: VisDial"
    ),
    "rec": PromptTemplate(
        "In the image <image>, can you locate {expression} and let me know its coordinates?",
        "region_level",
        f"{_PLAYGROUND}, region level; {_SHIKRA}: REC. The answer is a box; `<image>` stays as plain text",
    ),
    "reg": PromptTemplate(
        "For the given image <image>, can you provide a unique description of the area {box}?",
        "region_level",
        f"{_SHIKRA}: REG",
    ),
    "yes_no": PromptTemplate(
        "Question: {question} Short answer:",
        "image_level",
        "POPE (arXiv 2305.10355) with InstructBLIP's VQA wording; candidate answers are yes and no",
    ),
}


def format_prompt(task_name: str, /, **fields: str | Sequence[str]) -> str:
    """
    Fills a prompt template.

    Args:
        task_name: a key of `PROMPT_TEMPLATES`.
        fields: a string for each field of the template. Lists are accepted for `choices`, which become `(a) ... (b)
            ...`, and for `history`, whose items are the turns in order.

    Raises:
        ValueError: the name is unknown, or fields are missing or superfluous.
        TypeError: a field is no string.

    Example:
        >>> format_prompt("vqa", question="what is left of the dog?")
        'Question: what is left of the dog? Short answer:'
    """
    if task_name not in PROMPT_TEMPLATES:
        raise ValueError(f"task_name must be one of {', '.join(PROMPT_TEMPLATES)}, got {task_name!r:.100}")
    template = PROMPT_TEMPLATES[task_name]
    missing = [name for name in template.fields if name not in fields]
    unknown = [name for name in fields if name not in template.fields]
    if missing or unknown:
        wanted = ", ".join(template.fields) or "no fields"
        got = ", ".join(fields) or "none"
        raise ValueError(f"the prompt {task_name!r} takes {wanted}; got {got}")
    if "choices" in fields and not isinstance(fields["choices"], str):
        if len(fields["choices"]) > len(string.ascii_lowercase):
            raise ValueError(f"choices must hold at most 26 answers, got {len(fields['choices'])}")
        fields["choices"] = " ".join(
            f"({letter}) {choice}" for letter, choice in zip(string.ascii_lowercase, fields["choices"])
        )
    if "history" in fields and not isinstance(fields["history"], str):
        fields["history"] = " ".join(fields["history"])
    for name, value in fields.items():
        if not isinstance(value, str):
            raise TypeError(f"the field {name!r} of the prompt {task_name!r} must be a string, got {value!r:.100}")
    return template.text.format_map(fields)
