"""Which of LION's two levels an instruction belongs to: region level (places) or image level (words)."""

import re

from .grounding_lion import parse_boxes


# The index is the level's id, by which the routers pick their weights (official models/lion_t5.py).
LEVELS = ("region_level", "image_level")
TASKS = LEVELS
"""The former name of `LEVELS`."""

_IMAGE = r"(?:given |provided |same )?(?:image|picture|photo(?:graph)?|pic|frame)"

# The literal form of a box, as in "answer as [x1,y1,x2,y2]".
_BOX_FORM = re.compile(r"\b(?:x_?[01]|x_?min|left), ?(?:y_?[01]|y_?min|top),")
_COORDINATES = re.compile(r"\bcoordinates?\b|\bbounding[ -]?box(?:es)?\b|\bbbox(?:es)?\b")
_GLOBE = re.compile(r"\b(?:gps|geographic(?:al)?|latitude|longitude|map)\b")
_COORDINATES_ALONE = re.compile(r"\bcoordinates?\b")
_WRITTEN = re.compile(r"\b(?:written|printed|shown|displayed|listed|engraved)\b")
# The wrappers of VQA benchmarks, which ask for words whatever the question.
_WORDS_WANTED = re.compile(
    r"\banswer:|\b(?:options|choices|dialog(?:ue)? history):|\btrue or false\b|\byes or no\b"
    r"|\b(?:one|a single) (?:word|phrase|sentence)\b|\bmultiple[- ]choice\b"
)

# Courtesies and wishes in front of a request; what follows them is the request itself.
_OPENING = re.compile(
    r"^(?:\W*\b(?:please|kindly|also|now|then|and|so|ok|okay|hi|hello|hey|can|could|would|will|do|you|we|i['’]m|i['’]d|"
    r"i|am|like|love|want|need|wish|trying|try|going|to|help|assist|aid|me|us|in(?= (?:locat|find))|let|how|just|"
    r"search and|show me|tell me|tell us|let me know|know|see|quickly|precisely|exactly|accurately"
    rf"|(?:in|on|within|from|for) (?:the|this) {_IMAGE})\b)*\W*"
)
_EXISTENCE = re.compile(
    r"\b(?:can|could|do|would|will) (?:you|we|i) (?:\w+ )?(?:find|spot|detect|see) (?:an?|any|some)\b"
)
_FINDING = re.compile(
    r"(?:locat(?:e|ing)|locali[sz](?:e|ing)|pinpoint(?:ing)?|find(?:ing)?|detect|spot|trace|point (?:me )?"
    r"(?:out|to|at)) "
    # a thing, not a fact about the image
    r"(?!(?:out|any|what|who|why|how|which|when|if|whether|that|an? (?:reason|way|word|title|name|caption|mistake)"
    r"|the (?:\w+ )?(?:number|total|sum|count|amount|reason|difference|title|meaning|price|mistake|error)s?)\b)\S"
)
_DRAWING = re.compile(r"(?:draw|put|place|give|provide|output|return|predict)\b.*\b(?:box|boxes|rectangle)\b")
_POSITION = re.compile(r"(?P<asked>.*)\b(?:location|position|whereabouts) of (?P<thing>.+)")
_WHERE_DIRECT = re.compile(
    rf"where(?:abouts)?(?:'s|’s| is| are| do you see| can you see| do| does| in (?:the|this) {_IMAGE}) (?P<thing>.+)"
)
_WHERE_INDIRECT = re.compile(
    r"(?:mark |indicate |highlight |point out |identify |find )?where(?:abouts)? "
    r"(?P<thing>(?!to\b|is\b|are\b|was\b|were\b|did\b|do\b|does\b|can\b|could\b|would\b|should\b|might\b|will\b).+?) "
    r"(?:is|are|appears?|sits?|stands?|lies?)\b(?: located)?(?P<rest>.*)"
)
# Things whose place is on earth rather than in the image, and places that are told by another thing.
_NOWHERE = re.compile(
    r"^(?:this|that|these|those|it|he|she|they|we|i|you|here|there|everyone|everybody|anyone)\b"
    rf"|^(?:the )?(?:{_IMAGE}|scene|photographer|camera|event|game|match|place|best|nearest|closest|next)\b"
    r"|\b(?:in relation to|relative to|compared (?:to|with)|with respect to)\b"
)
# "Where is the man looking?" is answered in words.
_DOING = re.compile(
    r"\b(?:sitting|standing|lying|laying|looking|staring|gazing|facing|pointing|going|heading|headed|coming|walking|"
    r"running|riding|driving|flying|travell?ing|moving|sailing|playing|eating|sleeping|resting|waiting|working|living|"
    r"hiding|leaning|swimming|skiing|surfing|landing|parked|seated|placed|mounted|kept|stored|taken|made|built|born|"
    r"from|at|to|taking place)$"
)


def infer_level(instruction: str) -> str:
    """
    The level of an instruction by its words: `"region_level"` when it asks for a place in the image (referring
    expression comprehension) or holds a box (generation), `"image_level"` otherwise.

    The judgement, in this order:

    1. A box in the text, or the literal form `[x1,y1,x2,y2]`, is region level.
    2. So is asking for coordinates or a bounding box, unless they are the globe's or are written on something.
    3. A VQA benchmark's wrapper (`Question: .. Short answer:`, options, dialogue history, true or false) asks for
       words, whatever the question: image level.
    4. A request to locate, find or point out a thing is region level. Finding *what*, *whether* or *how many* is not,
       nor is "can you find a ..", which asks if there is one.
    5. "Where is the dog?" is region level. "Where is this?", "where was the photo taken?", "where is the man looking?"
       and "where is the dog relative to the cat?" are answered in words, hence image level.

    All else, such as "is the dog left of the cat?" or "what is located on the table?", is image level. The wordings
    are those of the templates of Shikra (arXiv 2306.15195), which the authors' region-level prompts follow, and of VQA
    benchmarks. Where a guess will not do, name the level.

    Args:
        instruction: the instruction without tag sentence.
    """
    text = " ".join(instruction.lower().replace("<image>", " ").split()).replace(" ,", ",")
    if parse_boxes(text) or _BOX_FORM.search(text):
        return "region_level"
    if _COORDINATES.search(text) and not _names_other_coordinates(text):
        return "region_level"
    if _WORDS_WANTED.search(text):
        return "image_level"
    asked = any(_asks_for_place(clause.strip()) for clause in re.split(r"[.?!;:,]", text))
    return "region_level" if asked else "image_level"


infer_task = infer_level
"""The former name of `infer_level`."""


def _names_other_coordinates(text: str) -> bool:
    """Whether coordinates are the globe's, or written on something in the same sentence."""
    if _GLOBE.search(text):
        return True
    for sentence in re.split(r"[.?!]", text):
        first = _COORDINATES_ALONE.search(sentence)
        if first and _WRITTEN.search(sentence, first.end()):
            return True
    return False


def _asks_for_place(clause: str) -> bool:
    if _EXISTENCE.search(clause):
        return False
    request = _OPENING.sub("", clause, count=1)
    if _FINDING.match(request) or _DRAWING.match(request):
        return True
    if match := _POSITION.match(request):
        # "What is the position of the batter?" is a matter of baseball unless the image is named.
        question = match["asked"].startswith(("what", "which", "who", "is ", "are "))
        in_image = re.search(rf"\b(?:in|within|on) (?:the|this) {_IMAGE}\b", match["thing"])
        return not _NOWHERE.search(match["thing"]) and bool(in_image or not question)
    if match := _WHERE_DIRECT.match(request):
        return not _NOWHERE.search(match["thing"]) and not _DOING.search(match["thing"])
    if match := _WHERE_INDIRECT.match(request):
        return not _NOWHERE.search(match["thing"]) and not _DOING.search(match["rest"])
    return False
