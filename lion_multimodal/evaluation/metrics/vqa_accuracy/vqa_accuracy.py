"""VQA accuracy: a free answer is as right as people gave it, and wholly right if three others did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import checked  # From: lion-multimodal


_CITATION = """\
@inproceedings{antol2015vqa,
  title = {VQA: Visual Question Answering},
  author = {Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
            Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {ICCV},
  year = {2015}
}"""

_INPUTS = """
Args:
    predictions: an answer to each question.
    references: for each question the answers of people, ten as a rule and at least two.
    per_sample: whether to give the figure of each question, too.

Returns:
    "accuracy": mean over questions, from 0 to 1; "per_sample" if asked for.
"""

_ENOUGH = 3


class VqaAccuracy(checked.CheckedMetric):
    """Accuracy as the official evaluation code of VQA computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
            ),
            reference_urls=["https://visualqa.org/evaluation.html", "https://github.com/GT-Vision-Lab/VQA"],
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], per_sample: bool = False
    ) -> dict[str, Any]:
        for number, answers in enumerate(references):
            if len(answers) < 2:
                raise ValueError(
                    f"references[{number}] must be the answers of two people at least, got {answers!r:.100}"
                )
        scores = [vqa_accuracy(*pair) for pair in zip(predictions, references, strict=True)]
        result: dict[str, Any] = {"accuracy": float(np.mean(scores))}
        return {**result, "per_sample": scores} if per_sample else result


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The accuracy of one answer: each person in turn is left out, and the others who say the same are counted."""
    prediction = _one_line(prediction)
    answers = [_one_line(answer) for answer in answers]
    # The official code leaves answers as they are if all people agree: it is often text in the image then.
    if len(set(answers)) > 1:
        prediction = normalize_answer(prediction)
        answers = [normalize_answer(answer) for answer in answers]
    same = [answer == prediction for answer in answers]
    return sum(min(1.0, (sum(same) - left_out) / _ENOUGH) for left_out in same) / len(same)


def normalize_answer(answer: str) -> str:
    """An answer without punctuation and articles, in lower case, numbers as digits: `"Two, the dogs."` is `2 dogs`."""
    words = _without_punctuation(answer).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


_ARTICLES = frozenset(["a", "an", "the"])
_NUMBERS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The official pattern begins with "(?!<=\d)", which was meant as a look behind and is always true.
_FULL_STOP = re.compile(r"\.(?!\d)")
# The official code passes a flag where the number of replacements belongs, and this is the flag's value.
_MOST_FULL_STOPS = int(re.UNICODE)

_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# Each from the word without one of its apostrophes; one entry of the official table is the wrong way round.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(answer: str) -> str:
    """Punctuation vanishes next to a blank, or where there is a number with a comma; else it becomes a blank."""
    vanishes = _COMMA_IN_NUMBER.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if vanishes or f"{mark} " in answer or f" {mark}" in answer else " ")
    return _FULL_STOP.sub("", text, count=_MOST_FULL_STOPS)
