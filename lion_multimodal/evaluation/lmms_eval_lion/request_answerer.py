"""
lmms-eval's requests, answered by LION.

A request is an lmms-eval `Instance`; all that is used of it are its `arguments`: text, decoding options or candidate,
the task's function from a row to its images, number of the row, task, split.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image
from tqdm import tqdm

from lion_multimodal.evaluation.answering import Answer, Answerer, group_by_image
from lion_multimodal.evaluation.benchmark import LEVELS, Decoding, Example
from lion_multimodal.evaluation.lmms_eval_lion.wordings import reword
from processing_lion.image_loading_lion import load_image
from processing_lion.levels_lion import infer_level


logger = logging.getLogger(__name__)

LEVEL_CHOICES = ("auto", *LEVELS)
PROMPTS = ("lion", "task")

_DECODING_FIELDS = ("num_beams", "max_new_tokens", "min_new_tokens", "length_penalty", "repetition_penalty")
# They shape sampling, or are read apart.
_OTHER_FIELDS = ("do_sample", "temperature", "top_p", "top_k", "until")


class RequestAnswerer:
    """
    Answers lmms-eval's requests. An image is encoded once for all that is asked about it with the same decoding,
    wherever in the dataset: images are known by their pixels.

    Args:
        answerer: the checkpoint.
        rows: the datasets, by task and split: lmms-eval's `task_dict`.
        level: how questions are routed: `"image_level"`, `"region_level"`, or `"auto"` to decide by the words.
        num_beams: in place of what tasks and checkpoint say.
        prompts: `"lion"` to put what tasks ask into LION's own words, where `wordings` has some for it; `"task"` to
            ask it as it stands.
        progress: whether to show how far it is.

    Raises:
        ValueError: an argument is outside what is described here.
    """

    def __init__(
        self,
        answerer: Answerer,
        rows: Mapping[str, Mapping[str, Sequence[Any]]],
        level: str = "auto",
        num_beams: int | None = None,
        prompts: str = "lion",
        progress: bool = True,
    ) -> None:
        if level not in LEVEL_CHOICES:
            raise ValueError(f"level must be one of {', '.join(LEVEL_CHOICES)}, got {level!r:.100}")
        if num_beams is not None and not (isinstance(num_beams, int) and num_beams >= 1):
            raise ValueError(f"num_beams must be at least 1, got {num_beams!r:.100}")
        if prompts not in PROMPTS:
            raise ValueError(f"prompts must be one of {', '.join(PROMPTS)}, got {prompts!r:.100}")
        self.answerer = answerer
        self.rows = rows
        self.level = level
        self.num_beams = num_beams
        self.prompts = prompts
        self.progress = progress
        self._shown: set[str] = set()
        self._ignored: set[str] = set()

    def generate(self, requests: Sequence[Any]) -> list[str]:
        """
        The answers to `generate_until` requests, cut before the first of the task's stop strings.

        Raises:
            ValueError: a request cannot be answered: no image or several, sampling; names task and row.
        """
        by_options: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            options = json.dumps(request.arguments[1], sort_keys=True, default=str)
            by_options.setdefault(options, []).append(place)
        firsts = [requests[places[0]].arguments for places in by_options.values()]
        # What cannot be done is said before anything is.
        decodings = [self._decoding(arguments[1], arguments[4]) for arguments in firsts]
        examples = self._examples(requests, range(len(requests)))

        answers = [""] * len(requests)
        with self._bar(len(requests), "Answering") as bar:
            for places, decoding, arguments in zip(by_options.values(), decodings, firsts, strict=True):
                stops = _stop_strings(arguments[1])
                found = self._answer(requests, [examples[place] for place in places], decoding, bar)
                for place in places:
                    answers[place] = cut_before(found[str(place)].text, stops)
        return answers

    def score(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """
        For each `loglikelihood` request the candidate's *loss*, and whether greedy decoding gives that candidate.

        The loss is the negative log-likelihood divided by the number of tokens: lmms-eval takes the candidate with the
        lowest figure, as its own models return losses.

        Raises:
            ValueError: a request cannot be answered; names task and row.
        """
        # Candidates of one question share an encoding of it.
        together: dict[tuple[Any, ...], list[int]] = {}
        for place, request in enumerate(requests):
            if len(request.arguments) != 6:
                raise ValueError("LION scores answers to questions about an image, not text alone (acc_mutual_info)")
            text, _, _, number, task, split = request.arguments
            together.setdefault((task, split, number, text), []).append(place)
        questions = {places[0]: places for places in together.values()}
        asked = self._examples(requests, list(questions))

        examples: list[Example] = []
        longest = 1
        for place, example in asked.items():
            candidates = tuple(self._candidate(requests[other].arguments) for other in questions[place])
            longest = max(longest, self.answerer.processor.encode_candidates(list(candidates)).shape[-1])
            examples += [replace(example, candidates=candidates), replace(example, id=f"{example.id} greedy")]
        with self._bar(len(examples), "Scoring") as bar:
            decoding = Decoding(num_beams=1, max_new_tokens=longest)
            found = self._answer(requests, examples, decoding, bar, normalize=True)

        losses: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for example in examples[::2]:
            greedy = found[f"{example.id} greedy"].text
            scores, candidates = found[example.id].scores or (), example.candidates or ()
            for place, candidate, score in zip(questions[int(example.id)], candidates, scores, strict=True):
                losses[place] = (-score, greedy == candidate)
        return losses

    def _bar(self, total: int, what: str) -> tqdm:
        return tqdm(total=total, desc=what, disable=not self.progress)

    def _decoding(self, options: Mapping[str, Any], task: str) -> Decoding:
        """What the task says, in the fields where it says something; the checkpoint's own decoding in the others."""
        # The temperature decides, as in lmms-eval's own models: some tasks say do_sample and temperature 0.
        temperature = options.get("temperature")
        sampled = options.get("do_sample", True) if temperature else temperature is None and options.get("do_sample")
        if sampled:
            raise ValueError(
                f"{task} asks for sampling (temperature {temperature}); LION is decoded by beam search: add "
                "--gen_kwargs do_sample=False,temperature=0"
            )
        if unknown := sorted(set(options) - {*_DECODING_FIELDS, *_OTHER_FIELDS} - self._ignored):
            self._ignored.update(unknown)
            logger.warning("%s: options that LION does not know are ignored: %s", task, ", ".join(unknown))
        own = self.answerer.model.generation_config
        fields = {name: getattr(own, name, None) for name in _DECODING_FIELDS}
        fields |= {name: options.get(name) for name in _DECODING_FIELDS if options.get(name) is not None}
        if self.num_beams is not None:
            fields["num_beams"] = self.num_beams
        return Decoding(**{name: value for name, value in fields.items() if value is not None})

    def _examples(self, requests: Sequence[Any], places: Sequence[int]) -> dict[int, Example]:
        """
        The questions of the requests at these places. They hold no images, but what opens them: an image is opened
        here to know which one it is, and again when it is its turn.
        """
        examples = {}
        for place in tqdm(places, "Looking at images", disable=not self.progress):
            arguments = requests[place].arguments
            instruction = self._instruction(arguments)
            examples[place] = Example(
                id=str(place),
                image=partial(self._image, arguments),
                image_id=content_id(self._image(arguments)),
                instruction=instruction,
                metric_inputs={"references": None},
                level=infer_level(instruction) if self.level == "auto" else self.level,
            )
        return examples

    def _instruction(self, arguments: Sequence[Any]) -> str:
        text, task = arguments[0], arguments[4]
        instruction = reword(text) if self.prompts == "lion" else text
        if task not in self._shown:
            self._shown.add(task)
            how = "as it stands" if instruction == text else "in LION's words"
            logger.info("%s is asked %s: %r", task, how, instruction)
        return instruction

    def _image(self, arguments: Sequence[Any]) -> Image.Image:
        _, _, doc_to_visual, number, task, split = arguments
        try:
            return _one_image(doc_to_visual, self.rows[task][split][number])
        except (OSError, ValueError) as error:
            raise ValueError(f"{_row_name(arguments)}: {error}") from error

    def _answer(
        self,
        requests: Sequence[Any],
        examples: Sequence[Example],
        decoding: Decoding,
        bar: tqdm,
        normalize: bool = False,
    ) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        groups = group_by_image(examples, self.answerer.batch_size)
        for found, lost in self.answerer.answer(groups, decoding, normalize_candidates=normalize):
            for example in lost:
                where = _row_name(requests[int(example.id.split()[0])].arguments)
                raise ValueError(f"{where}: {example.reason}")
            answers.update((answer.id, answer) for answer in found)
            bar.update(len(found))
        return answers

    def _candidate(self, arguments: Sequence[Any]) -> str:
        _, candidate, _, number, task, split = arguments
        if callable(candidate):
            candidate = candidate(self.rows[task][split][number])
        # With the blank that separates it from a prompt in decoder-only models.
        return str(candidate).strip()


def content_id(image: Image.Image) -> str:
    """A name that images of the same pixels share."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def cut_before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings, without blanks around it."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def _stop_strings(options: Mapping[str, Any]) -> list[str]:
    stops = options.get("until") or []
    return [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]


def _row_name(arguments: Sequence[Any]) -> str:
    *_, number, task, split = arguments
    return f"{task}, row {number} of {split}"


def _one_image(doc_to_visual: Callable[[Any], Any] | None, row: Any) -> Image.Image:
    # Tasks turn a row's images to RGB without regard to transparency or depth; so that is done before, as LION does.
    if isinstance(row, Mapping):
        row = {**row, **{name: load_image(cell) for name, cell in row.items() if isinstance(cell, Image.Image)}}
    visuals = (doc_to_visual(row) if doc_to_visual is not None else None) or []
    if len(visuals) != 1:
        raise ValueError(f"LION answers questions about one image, this one has {len(visuals) or 'none'}")
    if not isinstance(visuals[0], Image.Image):
        raise ValueError(f"LION looks at images, this is a {type(visuals[0]).__name__}")
    return load_image(visuals[0])
