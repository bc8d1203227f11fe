"""SPICE of captions: which objects, attributes and relations a caption has in common with people's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import captions, checked, java  # From: lion-multimodal


_CITATION = """\
@inproceedings{anderson2016spice,
  title = {SPICE: Semantic Propositional Image Caption Evaluation},
  author = {Anderson, Peter and Fernando, Basura and Johnson, Mark and Gould, Stephen},
  booktitle = {ECCV},
  year = {2016}
}"""

_INPUTS = f"""
Args:
    predictions: a caption for each image.
    references: a list of captions by people for each image.
{captions.TOKENIZER_ARGUMENT}
    per_sample: whether to give the figure of each image, too.

Returns:
    "SPICE": mean over images, from 0 to 1; "tokenizer"; "per_sample" if asked for.
"""

_JAR = "spice/spice-1.0.jar"
# Too large for pycocoevalcap's package: its own script fetches them.
_PARSER = ("spice/lib/stanford-corenlp-3.6.0.jar", "spice/lib/stanford-corenlp-3.6.0-models.jar")
_FETCH = "from pycocoevalcap.spice.get_stanford_models import get_stanford_models; get_stanford_models()"


class Spice(checked.CheckedMetric):
    """SPICE by its own Java program, called as pycocoevalcap calls it, but for the cache of parses."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=captions.FEATURES,
            reference_urls=["https://arxiv.org/abs/1607.08822", "https://panderson.me/spice"],
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
            scores = spice(words.predictions, words.references)
        except java.JavaUnavailableError as error:
            raise java.JavaUnavailableError(
                f"SPICE needs Java and the package pycocoevalcap with the parser of Stanford CoreNLP 3.6.0: {error}"
            ) from error
        result = {"SPICE": float(np.mean(scores)), "tokenizer": words.tokenizer}
        return {**result, "per_sample": scores} if per_sample else result


def spice(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """
    SPICE of each image; captions are words separated by blanks.

    Raises:
        JavaUnavailableError: Java, pycocoevalcap or the parser is not there, or the program fails.
    """
    jar = java.find_file(_JAR)
    java.java_command()
    for name in _PARSER:
        try:
            java.find_file(name)
        except java.JavaUnavailableError as error:
            raise java.JavaUnavailableError(f'{error}; it is fetched by python -c "{_FETCH}"') from error
    captioned = [
        {"image_id": number, "test": caption, "refs": list(group)}
        for number, (caption, group) in enumerate(zip(predictions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "captions.json"), Path(folder, "scores.json")
        question.write_text(json.dumps(captioned), encoding="utf-8")
        # Without a cache of parses, which would have to stay somewhere.
        options = [str(question), "-out", str(answer), "-subset", "-silent"]
        java.run_java(["-Xmx8G", "-jar", jar.name, *options], folder=jar.parent)
        try:
            found = json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise java.JavaUnavailableError(f"spice-1.0.jar writes no scores: {error}") from error
    scores = {int(item["image_id"]): float(item["scores"]["All"]["f"]) for item in found}
    if missing := [number for number in range(len(predictions)) if number not in scores]:
        raise java.JavaUnavailableError(f"spice-1.0.jar gives no score for predictions[{missing[0]}]")
    return [scores[number] for number in range(len(predictions))]
