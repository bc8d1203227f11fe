"""Captions as the caption metrics of COCO compare them: words of the Penn Treebank, in lower case, no punctuation."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import datasets

from lion_multimodal.evaluation.metrics.java import JavaUnavailableError, find_file, run_java
from lion_multimodal.evaluation.metrics.ptb_approximation import tokenize_lines


logger = logging.getLogger(__name__)

TOKENIZERS = ("auto", "java", "approximation", "whitespace")
JAVA_TOKENIZER = "PTBTokenizer of Stanford CoreNLP 3.4.1, as in pycocoevalcap"
WHITESPACE_TOKENIZER = "none: words are what blanks separate"

FEATURES = datasets.Features(
    {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
)
"""Inputs of the caption metrics: a caption, and those of the same image that people wrote."""

TOKENIZER_ARGUMENT = """\
    tokenizer: "java" for the tokenizer that published figures are made with, PTBTokenizer of Stanford CoreNLP 3.4.1,
        which needs Java and the package pycocoevalcap; "approximation" for one in Python that rarely differs from it;
        "auto" (the default) for the former where it runs, else the latter; "whitespace" for captions that are words
        between blanks already. The result says which one it was."""

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_CLASS = "edu.stanford.nlp.process.PTBTokenizer"
# pycocoevalcap drops brackets too, but as "-LRB-", while its tokens are in lower case: brackets stay.
_PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# What ends a line for the tokenizer, which must give a line for each caption.
_LINE_BREAKS = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")


@dataclass(frozen=True)
class TokenizedCaptions:
    """
    Captions as words, separated by single blanks.

    Attributes:
        predictions: one for each image.
        references: several for each image.
        tokenizer: what made them, in words.
    """

    predictions: list[str]
    references: list[list[str]]
    tokenizer: str


def tokenize_captions(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "auto"
) -> TokenizedCaptions:
    """
    Captions as words, the way pycocoevalcap makes them so.

    Args:
        predictions: a caption for each image.
        references: captions for each image, one at least.
        tokenizer: one of `TOKENIZERS`.

    Raises:
        ValueError: an argument is outside what is described here.
        JavaUnavailableError: `tokenizer` is `"java"` and cannot be run.
    """
    _check(predictions, references, tokenizer)
    flat = [caption for captions in references for caption in captions]
    # Apart from each other, and each as one text: that is how pycocoevalcap feeds them, and the last word of a caption
    # may be read otherwise according to what follows.
    (words, flat_words), name = _tokenize([predictions, flat], tokenizer)
    rest = iter(flat_words)
    return TokenizedCaptions(words, [[next(rest) for _ in captions] for captions in references], name)


def ngrams(words: Sequence[str], longest: int = 4) -> Counter[tuple[str, ...]]:
    """How often each sequence of one to `longest` words is there."""
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(words) - length + 1)
    )


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str) -> None:
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"tokenizer must be one of {', '.join(TOKENIZERS)}, got {tokenizer!r:.100}")
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions and references for {len(references)}")
    for number, captions in enumerate(references):
        if not captions:
            raise ValueError(f"references[{number}] must hold at least one caption")


def _tokenize(texts: Sequence[Sequence[str]], tokenizer: str) -> tuple[list[list[str]], str]:
    if tokenizer == "whitespace":
        return [[" ".join(line.split()) for line in lines] for lines in texts], WHITESPACE_TOKENIZER
    missing = ""
    if tokenizer in ("auto", "java"):
        try:
            return [list(_java_words(tuple(lines))) for lines in texts], JAVA_TOKENIZER
        except JavaUnavailableError as error:
            if tokenizer == "java":
                raise
            missing = f": {error}"
            logger.warning("captions are tokenized without Java, by an approximation%s", missing)
    words = [[_join(tokens) for tokens in tokenize_lines([_one_line(line) for line in lines])] for lines in texts]
    return words, f"approximation in Python of PTBTokenizer (Stanford CoreNLP 3.4.1){missing}"


# Several metrics ask for the same captions one after the other, and Java takes its time to start.
@lru_cache(maxsize=2)
def _java_words(captions: tuple[str, ...]) -> tuple[str, ...]:
    arguments = ["-cp", str(find_file(_JAR)), _CLASS, "-preserveLines", "-lowerCase"]
    lines = run_java(arguments, "\n".join(map(_one_line, captions))).split("\n")
    # The last line ends with or without a line break.
    if len(lines) < len(captions) or any(lines[len(captions) :]):
        raise JavaUnavailableError(f"PTBTokenizer makes {len(lines)} lines of {len(captions)} captions")
    return tuple(_join(line.rstrip().split(" ")) for line in lines[: len(captions)])


def _one_line(caption: str) -> str:
    return _LINE_BREAKS.sub(" ", caption)


def _join(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if token not in _PUNCTUATION)


__all__ = [
    "FEATURES",
    "JAVA_TOKENIZER",
    "TOKENIZERS",
    "TOKENIZER_ARGUMENT",
    "WHITESPACE_TOKENIZER",
    "TokenizedCaptions",
    "ngrams",
    "tokenize_captions",
]
