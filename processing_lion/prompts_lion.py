"""The words that LION is asked with: the tag sentence, instructions by task, and which level an instruction is of."""

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from processing_lion.grounding_lion import parse_boxes

# The index in this tuple is the task's id, by which the routers pick their weights (lion_t5.py: 0 region, 1 image).
TASKS = ("region_level", "image_level")

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
        task: the level that the task is routed as, `"image_level"` or `"region_level"`.
        source: where the wording comes from.
    """

    text: str
    task: str
    source: str

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
        "Please describe the image in detail.", "image_level", "LLaVA (arXiv 2304.08485), detailed description"
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
        "POPE (arXiv 2305.10355) questions in InstructBLIP's VQA wording; candidate answers are yes and no",
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
        raise ValueError(f"task_name must be one of {', '.join(PROMPT_TEMPLATES)}, got {task_name!r}")
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
            raise TypeError(f"the field {name!r} of the prompt {task_name!r} must be a string, got {value!r}")
    return template.text.format_map(fields)


# --- Which level an instruction is of -------------------------------------------------------------------------------
#
# Region level are referring expression comprehension (the answer is a place: a box) and generation (the question holds
# one). The wordings are those of Shikra's and Kosmos-2's templates, which the authors train on, and what people write
# in their stead. The judgement, in order:
#   1. A box in the text, or its literal form [x1,y1,x2,y2], is region level.
#   2. So is asking for coordinates or a bounding box, except coordinates on the globe or such as are written somewhere.
#   3. The wrappers of the VQA benchmarks ask for words, whatever the question: image level.
#   4. A request to locate, find, point out or mark a thing is region level; to find *whether*, *how many*, *what*
#      or *any* is not, nor is "can you see/find a ..", which asks whether there is one.
#   5. "Where is X?" asks for a place, unless X is the picture itself or a pronoun (where on earth), or a participle
#      follows (where is the man sitting / looking / going), or another thing is the landmark (relative to): those ask
#      for words. "Where was/did/can .." is about the world, not the picture.
# All else, spatial yes/no questions and "what is left of .." included, is image level.

_BOX_FORM = re.compile(r"[\[(<{]?\s*(?:x_?[01]|x_?min|x_?left|left)\s*,\s*(?:y_?[01]|y_?min|y_?top|top)\s*,", re.I)
_COORDINATES = re.compile(r"\bcoordinates?\b|\b(?:bounding|localization)[ -]?box(?:es)?\b|\bbbox(?:es)?\b", re.I)
_OTHER_COORDINATES = re.compile(
    r"\b(?:gps|geographic(?:al)?|geo|latitude|longitude|map|polar|cartesian)\b"
    r"|\bcoordinates?\b[^.?!]*\b(?:written|printed|shown|displayed|listed|engraved)\b",
    re.I,
)
_WORDS_WANTED = re.compile(
    r"\b(?:short )?answer:|\b(?:options|choices|dialog(?:ue)? history):|\btrue or false\b|\byes or no\b"
    r"|\b(?:one|a single|single) (?:word|phrase|sentence)\b|\bone-word\b|\bmultiple[- ]choice\b",
    re.I,
)
_PICTURE = r"(?:image|picture|photo|photograph|pic|frame)"
# Where a request may begin: at the start of a clause, after a courtesy, or after a wish.
_REQUEST = (
    rf"(?:(?:^|[.?!;:,]\s*|\band (?:then )?|\bthen )(?:(?:in|on|within) (?:the|this) (?:given |provided )?{_PICTURE}\W+)?"
    r"|\b(?:please|kindly|could you|can you|would you|will you|can i|could i|how can i|how do i|help me(?: to)?|let me|"
    r"you to|(?:want|need|wish|trying|like|love|going|task is|job is|able) to)\s+)"
    r"(?:please |kindly |also |help (?:me )?(?:to )?|try to |accurately |precisely |quickly )*"
)
_NOT_A_THING = (
    r"(?!\s*(?:out\b|any\b|what\b|who\b|why\b|how\b|which\b|when\b|if\b|whether\b|that\b|an? (?:answer|reason|way|word|"
    r"title|name|caption|mistake|error)\b|the (?:\w+ )?(?:number|total|sum|count|amount|answer|reason|difference|name|"
    r"title|meaning|word|text|price|time|date|year|mistake|error|average|percentage|cause|value|result)s?\b))"
)
_LOCATE = re.compile(
    _REQUEST
    + r"(?:locate|localize|localise|pinpoint|point (?:me )?(?:out|at|to)|ground|trace|show me the (?:location|position) of"
    r"|mark(?= (?:the|all|every|each|out)\b)|(?:find|detect|spot|identify the (?:location|position) of))\b"
    + _NOT_A_THING
    + r"(?=\s+\S)",
    re.I,
)
_EXISTENCE = re.compile(
    r"\b(?:can|could|do|did|would|will) (?:you|we|i|one|anyone) (?:\w+ )?(?:find|spot|detect|see|identify) (?:an?|any|some|another)\b",
    re.I,
)
_LOCATING = re.compile(
    r"\b(?:help|assist|aid|assistance|interested) (?:me |us |you )?(?:with |in )?(?:locating|finding|pinpointing)\b(?! out)",
    re.I,
)
_DRAW = re.compile(_REQUEST + r"(?:draw|put|place|give|provide|output|return|predict)\b[^.?!]*\b(?:box|boxes|rectangle)\b", re.I)
_POSITION = re.compile(
    r"\b(?:exact |precise |spatial )?(?:location|position|whereabouts) of (?!(?:this|that|these|those)\b|the (?:photo|picture|"
    r"image|scene|event|game|match|company|store|shop|restaurant|camera|photographer)\b)"
    rf".*\b(?:in|within|on|inside) (?:the|this|that) (?:\w+ )?{_PICTURE}\b"
    r"|" + _REQUEST + r"(?:give|tell|show|indicate|provide|reveal|report|state|share|identify|determine|detect|disclose|"
    r"highlight|specify|output|return|find)\b[^.?!]*\b(?:location|position|whereabouts)s? of (?!(?:this|that|the) "
    r"(?:photo|picture|image|scene|event|place)\b)",
    re.I,
)
_WHERE_IN_PICTURE = re.compile(rf"\bwhere(?:abouts)? (?:in|on|within) (?:the|this|that) (?:given |provided )?{_PICTURE}\b", re.I)
_WHERE = re.compile(
    r"\bwhere(?:abouts)?(?:'s|’s| is| are| do you see| can (?:i|you|we) (?:see|find)| (?:do|does) (?=.*\bappear\b))\s+(?P<thing>[^?.!]+)",
    re.I,
)
_INDIRECT_WHERE = re.compile(
    r"\b(?:tell|show|mark|indicate|highlight|know|see|identify|point out|find)\b[^.?!]*\bwhere\s+(?P<thing>(?!to\b)[^?.!]*?)"
    r"\s+(?:is|are|sits?|stands?|appears?|lies?)\b(?P<rest>[^?.!]*)",
    re.I,
)
_NOWHERE = re.compile(
    r"^(?:th(?:is|at|ese|ose)|it|he|she|they|we|i|you|here|there|everyone|everybody|anyone)\b"
    rf"|^(?:the |your |my )?(?:{_PICTURE}|scene|photographer|camera|event|game|match|place|best|nearest|closest|next)\b"
    r"|\b(?:in relation to|relative to|compared (?:to|with)|with respect to|in reference to)\b",
    re.I,
)
_DOING = re.compile(
    r"\b(?:sitting|standing|lying|laying|looking|staring|gazing|facing|pointing|going|heading|headed|coming|walking|"
    r"running|riding|driving|flying|traveling|travelling|moving|sailing|playing|eating|sleeping|resting|waiting|working|"
    r"living|hiding|leaning|swimming|skiing|surfing|landing|parked|seated|placed|mounted|kept|stored|taken|made|"
    r"built|born|from|at|to|hidden|held|stuck|attached|taking place)\s*$",
    re.I,
)


def infer_task(instruction: str) -> str:
    """
    The level an instruction is of, by its words: `"region_level"` when it asks for a place in the picture or holds a
    box, `"image_level"` otherwise.

    "Locate the red square", "where is the dog?" and "describe the area [0.1,0.2,0.3,0.4]" are region level. "What is
    located on the table?", "where was this photo taken?", "where is the man looking?" and "is the dog left of the
    cat?" are answered in words, hence image level, as is every question in a VQA benchmark's wrapper ("Question: ...
    Short answer:"). Where the guess matters, pass the task to the processor.

    Args:
        instruction: the instruction without the tag sentence.
    """
    text = " ".join(instruction.replace("<image>", " ").split()).replace(" ,", ",")
    if parse_boxes(text) or _BOX_FORM.search(text):
        return "region_level"
    if _COORDINATES.search(text) and not _OTHER_COORDINATES.search(text):
        return "region_level"
    if _WORDS_WANTED.search(text):
        return "image_level"
    if _EXISTENCE.search(text):
        return "image_level"
    if any(pattern.search(text) for pattern in (_LOCATE, _LOCATING, _DRAW, _POSITION, _WHERE_IN_PICTURE)):
        return "region_level"
    for match in (_WHERE.search(text), _INDIRECT_WHERE.search(text)):
        if match and not _NOWHERE.search(match["thing"]):
            end = match["thing"] if match.re is _WHERE else match["rest"]
            if not _DOING.search(end.rstrip(" ,")):
                return "region_level"
    return "image_level"
