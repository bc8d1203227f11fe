"""METEOR of captions: how well their words can be paired with people's, by form, stem, meaning and paraphrase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate

from lion_multimodal.evaluation.metrics import captions, checked, java  # From: lion-multimodal


_CITATION = """\
@inproceedings{denkowski2014meteor,
  title = {Meteor Universal: Language Specific Translation Evaluation for Any Target Language},
  author = {Denkowski, Michael and Lavie, Alon},
  booktitle = {WMT},
  year = {2014}
}"""

_INPUTS = f"""
Args:
    predictions: a caption for each image.
    references: a list of captions by people for each image.
{captions.TOKENIZER_ARGUMENT}
    per_sample: whether to give the figure of each image, too.

Returns:
    "METEOR": of all images together, from 0 to 1; "tokenizer"; "per_sample" if asked for.
"""

_JAR = "meteor/meteor-1.5.jar"
_OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")
_SEPARATOR = "|||"


class Meteor(checked.CheckedMetric):
    """METEOR 1.5 by its own Java program, called as pycocoevalcap calls it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=captions.FEATURES,
            reference_urls=["https://aclanthology.org/W14-3348", "https://www.cs.cmu.edu/~alavie/METEOR/"],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "auto",
        per_sample: bool = False,
    ) -> dict[str, Any]:
        words = captions.tokenize_captions(predictions, references, tokenizer)
        try:
            score, scores = meteor(words.predictions, words.references)
        except java.JavaUnavailableError as error:
            raise java.JavaUnavailableError(f"METEOR needs Java and the package pycocoevalcap: {error}") from error
        result = {"METEOR": score, "tokenizer": words.tokenizer}
        return {**result, "per_sample": scores} if per_sample else result


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """
    METEOR of all images together, and of each; captions are words separated by blanks.

    Raises:
        JavaUnavailableError: Java or pycocoevalcap is not there, or the program fails.
    """
    jar = java.find_file(_JAR)
    with java.java_dialogue(["-Xmx2G", "-jar", jar.name, *_OPTIONS], folder=jar.parent) as program:
        statistics = []
        for caption, group in zip(predictions, references, strict=True):
            fields = ["SCORE", *group, caption]
            statistics.append(program.ask(f" {_SEPARATOR} ".join(field.replace(_SEPARATOR, "") for field in fields)))
        first = program.ask(f" {_SEPARATOR} ".join(["EVAL", *statistics]))
        # A line for each image, then one for all together.
        scores = [first, *(program.read() for _ in predictions)]
    try:
        *each, total = map(float, scores)
    except ValueError as error:
        raise java.JavaUnavailableError(f"METEOR answers {first!r}, which is no number") from error
    return total, each
