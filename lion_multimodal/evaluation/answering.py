"""From examples to answers: every image is encoded and tagged once, whatever is asked about it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from lion_multimodal.evaluation.benchmark import Decoding, Example
from lion_multimodal.evaluation.rows import load_image
from lion_multimodal.loading import check_device, check_processor, check_weights, find_commit, loading
from modeling_lion.device_lion import default_device
from modeling_lion.modeling_lion import LionForConditionalGeneration, LionImageFeatures
from modeling_lion.tagger_lion import LionTagger
from processing_lion.processing_lion import LionProcessor


logger = logging.getLogger(__name__)

TAG_SOURCES = ("column", "tagger", "none")
DTYPES = ("auto", "float32", "bfloat16", "float16")

_IGNORED_LABEL = -100
# Decoder positions scored at once. For each the logits of the whole vocabulary are held: 0.5 GB in float32 for T5's.
_MOST_CANDIDATE_TOKENS = 4096


@dataclass(frozen=True)
class Answer:
    """
    What the model says to an example.

    Attributes:
        id: the example's.
        text: the generated text, or the most likely candidate.
        scores: the log-likelihood of each candidate, where there are candidates.
        tags: the tags in the prompt, separated by commas; `None` where the prompt has no tag sentence.
    """

    id: str
    text: str
    scores: tuple[float, ...] | None
    tags: str | None


@dataclass(frozen=True)
class Unanswered:
    """An example without an answer, and why there is none."""

    id: str
    reason: str


def group_by_image(examples: Iterable[Example], images: int) -> list[list[Example]]:
    """
    Put all questions about an image together, and so many images into each group.

    The groups depend on the examples alone: not on how many processes share them, nor on what an earlier run has
    done. As nothing that is computed leaves its group, neither do the answers depend on these.
    """
    by_image: dict[str, list[Example]] = {}
    for example in examples:
        by_image.setdefault(example.image_id, []).append(example)
    questions = list(by_image.values())
    return [
        [example for asked in questions[start : start + images] for example in asked]
        for start in range(0, len(questions), images)
    ]


@dataclass
class _Images:
    """The images of a group, preprocessed, by their `image_id`; of those that cannot be read, the reasons."""

    pixels: dict[str, torch.Tensor]
    tagger_pixels: dict[str, torch.Tensor]
    unreadable: dict[str, str]


class Answerer:
    """
    A checkpoint that answers examples.

    Args:
        model: the model, on the device where it is to run.
        processor: its processor.
        tagger: names what is in an image; needed with `tags="tagger"`.
        tags: where the tags of prompts come from: the example (`"column"`), the tagger, or nowhere (`"none"`). An
            example of `"column"` that has none is asked without the tag sentence.
        batch_size: images encoded at once, and questions asked at once.
        revision: the commit that the checkpoint is of, if it is from the Hub.

    Raises:
        ValueError: an argument is outside what is described here.
    """

    def __init__(
        self,
        model: LionForConditionalGeneration,
        processor: LionProcessor,
        tagger: LionTagger | None = None,
        tags: str = "none",
        batch_size: int = 16,
        revision: str | None = None,
    ) -> None:
        if tags not in TAG_SOURCES:
            raise ValueError(f"tags must be one of {', '.join(TAG_SOURCES)}, got {tags!r:.100}")
        if tags == "tagger" and tagger is None:
            raise ValueError("tags='tagger' needs a tagger")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model.eval()
        self.processor = processor
        self.tagger = tagger if tags == "tagger" else None
        self.tags = tags
        self.batch_size = batch_size
        self.revision = revision

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        adapter: str | os.PathLike | None = None,
        revision: str | None = None,
        tags: str = "tagger",
        batch_size: int = 16,
        dtype: str = "auto",
        device: str | torch.device | None = None,
    ) -> Self:
        """
        Load a checkpoint, and its tagger if that is to be asked.

        Args:
            name_or_path: directory of a checkpoint, or a repo on the Hub.
            adapter: a PEFT adapter on top of it, as `lion finetune` writes it.
            revision: branch, tag or commit on the Hub.
            tags, batch_size: as above.
            dtype: a name of `DTYPES`; `"auto"` is the precision of the checkpoint's files. The tagger always runs in
                float32.
            device: an accelerator by default, if there is one.

        Raises:
            OSError: there is no checkpoint at that place, or no tagger with it.
            ValueError: an argument is outside what is described here, or there is no such device.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r:.100}")
        source = os.fspath(name_or_path)
        device = device or default_device()
        check_device(device)
        commit = find_commit(source, revision)
        revision = commit or revision or "main"
        tagger = None
        if tags == "tagger":
            try:
                with loading(source):
                    tagger = LionTagger.from_pretrained(source, revision=revision)
            except OSError as error:
                raise OSError(f"{error}: choose --tags none, or --tags column if the rows have tags") from error
            tagger.model.to(device)
        with loading(source):
            model = LionForConditionalGeneration.from_pretrained(
                source,
                revision=revision,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                # Straight to the device: of several processes, each would else hold the weights in the CPU's memory.
                device_map={"": device},
            )
            check_weights(model, source)
            processor = LionProcessor.from_pretrained(source, revision=revision)
            check_processor(processor, model, source)
        if adapter is not None:
            from trainers.finetune import attach_adapter  # PEFT takes seconds to load

            model = attach_adapter(model, adapter).get_base_model()
        return cls(model, processor, tagger, tags, batch_size, commit)

    def answer(
        self,
        groups: Sequence[Sequence[Example]],
        decoding: Decoding,
        *,
        normalize_candidates: bool = False,
        answered: Collection[str] = frozenset(),
    ) -> Iterator[tuple[list[Answer], list[Unanswered]]]:
        """
        Answer the examples of groups, a batch at a time; examples of any level and kind may stand side by side.

        A group's images are read while the one before is answered, and are encoded once. Batches are formed before
        what is answered or cannot be read is left out of them, so that a run that goes on gives the very numbers that
        an uninterrupted one gives.

        Args:
            groups: what [`group_by_image`] made.
            decoding: how answers without candidates are generated.
            normalize_candidates: whether to divide log-likelihoods by the candidates' numbers of tokens.
            answered: ids of examples that need no answer any more.

        Yields:
            The answers of a batch, and the examples that have none.
        """
        waiting = [group for group in groups if any(example.id not in answered for example in group)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            upcoming: Future[_Images] | None = None
            for index, group in enumerate(waiting):
                current = upcoming or pool.submit(self._read, group)
                upcoming = pool.submit(self._read, waiting[index + 1]) if index + 1 < len(waiting) else None
                yield from self._answer_group(group, current.result(), decoding, normalize_candidates, answered)

    def _read(self, group: Sequence[Example]) -> _Images:
        images = _Images({}, {}, {})
        for example in group:
            name = example.image_id
            if name in images.pixels or name in images.unreadable:
                continue
            try:
                image = load_image(example)
                images.pixels[name] = self._pixels(self.processor.image_processor, image)
                if self.tagger is not None:
                    images.tagger_pixels[name] = self._pixels(self.tagger.image_processor, image)
            except (OSError, ValueError) as error:
                images.unreadable[name] = str(error)
                images.pixels.pop(name, None)
        return images

    @staticmethod
    def _pixels(image_processor: Any, image: Any) -> torch.Tensor:
        return image_processor(image, return_tensors="pt")["pixel_values"]

    def _answer_group(
        self,
        group: Sequence[Example],
        images: _Images,
        decoding: Decoding,
        normalize_candidates: bool,
        answered: Collection[str],
    ) -> Iterator[tuple[list[Answer], list[Unanswered]]]:
        open_examples = {example.id for example in group if example.id not in answered}
        lost = [
            Unanswered(example.id, images.unreadable[example.image_id])
            for example in group
            if example.id in open_examples and example.image_id in images.unreadable
        ]
        if lost:
            yield [], lost
        open_examples -= {example.id for example in lost}
        if not open_examples:
            return

        candidates = self._encode_candidates(group)
        features, tags = self._look(images)
        positions = {name: index for index, name in enumerate(images.pixels)}
        for batch in self._batches(group, candidates):
            if not any(example.id in open_examples for example in batch):
                continue
            batch = [example for example in batch if example.image_id in positions]
            rows = features.select([positions[example.image_id] for example in batch])
            if self.tags == "column":
                prompt_tags = [example.tags for example in batch]
            else:
                prompt_tags = [tags.get(example.image_id) for example in batch]
            inputs = self._inputs(batch, prompt_tags, rows)
            if batch[0].candidates is None:
                texts = self._generate(inputs, decoding)
                answers = [Answer(e.id, text, None, t) for e, text, t in zip(batch, texts, prompt_tags)]
                lost = []
            else:
                scores = self._score(inputs, [candidates[e.candidates or ()] for e in batch], normalize_candidates)
                answers, lost = _choose(batch, scores, prompt_tags)
            yield (
                [answer for answer in answers if answer.id in open_examples],
                [example for example in lost if example.id in open_examples],
            )

    def _encode_candidates(self, group: Sequence[Example]) -> dict[tuple[str, ...], torch.Tensor]:
        """The token ids of each set of candidates, of shape `(num_candidates, length)`; equal sets share them."""
        sets = dict.fromkeys(example.candidates for example in group if example.candidates is not None)
        return {candidates: self.processor.encode_candidates(list(candidates)) for candidates in sets}

    def _batches(
        self, group: Sequence[Example], candidates: dict[tuple[str, ...], torch.Tensor]
    ) -> Iterator[list[Example]]:
        """Examples that are asked at once: without candidates, or with as many as fit."""
        generated = [example for example in group if example.candidates is None]
        for start in range(0, len(generated), self.batch_size):
            yield generated[start : start + self.batch_size]
        batch: list[Example] = []
        most, longest = 0, 0
        for example in group:
            if example.candidates is None:
                continue
            number, length = candidates[example.candidates].shape
            most, longest = max(most, number), max(longest, length)
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * most * longest > _MOST_CANDIDATE_TOKENS):
                yield batch
                batch, most, longest = [], number, length
            batch.append(example)
        if batch:
            yield batch

    @torch.inference_mode()
    def _look(self, images: _Images) -> tuple[LionImageFeatures, dict[str, str]]:
        """All that can be known before a question is asked: features, and the tagger's tags."""
        pixels = torch.cat(list(images.pixels.values())).to(self.model.device)
        tags: dict[str, str] = {}
        if self.tagger is not None:
            found = self.tagger.tag_pixel_values(torch.cat([images.tagger_pixels[name] for name in images.pixels]))
            tags = {name: ", ".join(names) for name, names in zip(images.pixels, found, strict=True)}
        return self.model.encode_images(pixels), tags

    def _inputs(
        self, batch: Sequence[Example], tags: Sequence[str | None], features: LionImageFeatures
    ) -> dict[str, Any]:
        text = self.processor(
            text=[example.instruction for example in batch],
            tags=list(tags),
            level=[example.level for example in batch],
            return_tensors="pt",
        )
        return {**text.to(self.model.device), "image_features": features}

    @torch.inference_mode()
    def _generate(self, inputs: dict[str, Any], decoding: Decoding) -> list[str]:
        own = self.model.generation_config
        ids = self.model.generate(
            **inputs,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=decoding.num_beams,
                max_new_tokens=decoding.max_new_tokens,
                min_new_tokens=decoding.min_new_tokens,
                length_penalty=decoding.length_penalty,
                repetition_penalty=decoding.repetition_penalty,
                pad_token_id=own.pad_token_id,
                eos_token_id=own.eos_token_id,
                decoder_start_token_id=own.decoder_start_token_id,
            ),
        )
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    @torch.inference_mode()
    def _score(self, inputs: dict[str, Any], candidates: Sequence[torch.Tensor], normalize: bool) -> list[list[float]]:
        longest = max(ids.shape[1] for ids in candidates)
        # To one shape: tokens that do not count behind the candidates, candidates that do not count behind the others.
        padded = pad_sequence(
            [torch.nn.functional.pad(ids, (0, longest - ids.shape[1]), value=_IGNORED_LABEL) for ids in candidates],
            batch_first=True,
            padding_value=_IGNORED_LABEL,
        ).to(self.model.device)
        step = max(1, _MOST_CANDIDATE_TOKENS // (len(candidates) * longest))
        scores = torch.cat(
            [
                self.model.score_candidates(inputs, part, length_normalize=normalize)
                for part in padded.split(step, dim=1)
            ],
            dim=1,
        )
        return [row[: len(ids)].tolist() for row, ids in zip(scores.float().cpu(), candidates)]


def _choose(
    batch: Sequence[Example], scores: Sequence[list[float]], tags: Sequence[str | None]
) -> tuple[list[Answer], list[Unanswered]]:
    """The most likely candidates."""
    answers, lost = [], []
    for example, row, example_tags in zip(batch, scores, tags, strict=True):
        if not all(map(math.isfinite, row)):
            lost.append(Unanswered(example.id, "the model gives its candidates no finite likelihoods"))
            continue
        best = (example.candidates or ())[row.index(max(row))]
        answers.append(Answer(example.id, best, tuple(row), example_tags))
    return answers, lost


__all__ = ["DTYPES", "TAG_SOURCES", "Answer", "Answerer", "Unanswered", "find_commit", "group_by_image"]
