"""
A LION that is ready to be asked, in three steps that can be shared out: an image is prepared (by any thread), encoded
once (with its tags), and asked any number of questions. Questions of both levels are answered in one batch, as LION
routes every sample by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

from lion_multimodal.asking import load_pipeline
from modeling_lion.modeling_lion import LionImageFeatures
from processing_lion.image_loading_lion import load_image
from processing_lion.levels_lion import LEVELS
from processing_lion.prompts_lion import format_prompt


if TYPE_CHECKING:
    import os

    from modeling_lion import LionImageToTextPipeline


@dataclass(frozen=True)
class Question:
    """
    What is asked about an image.

    Args:
        prompt (`str`, *optional*): The instruction; a request for a short caption by default.
        tags (*optional*): A comma-separated string or a list of strings; False for a prompt without the tag sentence.
            By default, what the tagger found.
        level (`str`, *optional*, defaults to `"auto"`): `"image_level"`, `"region_level"`, or what the prompt sounds
            like.
    """

    prompt: str | None = None
    tags: str | Sequence[str] | bool | None = None
    level: str = "auto"

    @property
    def text(self) -> str:
        """The instruction that the model reads."""
        return format_prompt("caption_short") if self.prompt is None else self.prompt


@dataclass(frozen=True)
class PreparedImage:
    """
    An image as tensors.

    Attributes:
        pixel_values (`torch.Tensor` of shape `(1, 3, height, width)`): For the vision tower.
        tagger_pixel_values (`torch.Tensor` of shape `(1, 3, height, width)`, *optional*): For the tagger.
        size (`tuple[int, int]`): Height and width of the image as given, in pixels.
    """

    pixel_values: torch.Tensor
    tagger_pixel_values: torch.Tensor | None
    size: tuple[int, int]


@dataclass(frozen=True)
class EncodedImage:
    """
    All of an image that does not depend on the question.

    Attributes:
        features ([`LionImageFeatures`]): Of this one image.
        tags (`tuple[str, ...]`, *optional*): What the tagger found; None where it was not asked.
        size (`tuple[int, int]`): Height and width of the image as given, in pixels.
    """

    features: LionImageFeatures
    tags: tuple[str, ...] | None
    size: tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """
    An answer.

    Attributes:
        text (`str`): The words, boxes included.
        boxes (`list` of `[x1, y1, x2, y2]`): The boxes in it, in pixels of the image as given.
        labels (`list[str]`): What the answer calls each box; `""` where it has no words for it.
        level (`str`): The level that the question was routed to.
        tags (`str`, *optional*): The tags of the prompt, comma-separated; None where it has no tag sentence.
        prompt_tokens, answer_tokens (`int`): Lengths; of the answer with its end.
        finished (`bool`): Whether the answer came to its end, rather than to the limit on its length.
    """

    text: str
    boxes: list[list[float]]
    labels: list[str]
    level: str
    tags: str | None
    prompt_tokens: int
    answer_tokens: int
    finished: bool


class LionEngine:
    """
    A checkpoint that answers questions about images, many at a time.

    Images may be prepared by any number of threads; all that runs the model takes turns.

    Args:
        pipe ([`LionImageToTextPipeline`]): Model, processor, tagger and device.

    Example:

    ```python
    >>> engine = LionEngine.from_pretrained(repo)
    >>> image = engine.encode([engine.prepare("street.jpg")])[0]
    >>> questions = [Question("What colour is the car?"), Question("Where is the car?")]
    >>> [answer.text for answer in engine.answer([image] * 2, questions)]
    ['red', '[0.440,0.060,0.650,0.367]']
    ```
    """

    def __init__(self, pipe: LionImageToTextPipeline):
        self.model = pipe.model.eval()
        self.processor = pipe.processor
        self.tagger = pipe.tagger
        self.device = pipe.device
        self._turn = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        adapter: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> Self:
        """
        Load a checkpoint; arguments and errors as in [`~lion_multimodal.asking.load_pipeline`].
        """
        return cls(load_pipeline(None if model is None else str(model), device, adapter, dtype))

    def prepare(self, image: Any, tag: bool = True, **kwargs: Any) -> PreparedImage:
        """
        Read and preprocess an image: the work that needs no model.

        Args:
            image: In any form that [`load_image`] takes.
            tag (`bool`, *optional*, defaults to `True`): Whether the tagger is to be asked about it.
            kwargs: Limits, of [`load_image`].

        Raises:
            TypeError, ValueError, OSError: the image cannot be read.
        """
        loaded = load_image(image, **kwargs)
        tagger_pixel_values = None
        if tag and self.tagger is not None:
            tagger_pixel_values = self.tagger.image_processor(loaded, return_tensors="pt")["pixel_values"]
        pixel_values = self.processor.image_processor(loaded, return_tensors="pt")["pixel_values"]
        return PreparedImage(pixel_values, tagger_pixel_values, (loaded.height, loaded.width))

    @torch.inference_mode()
    def encode(self, images: Sequence[PreparedImage]) -> list[EncodedImage]:
        """Run tower and tagger over images, all at once."""
        if not images:
            return []
        with self._turn:
            tags: dict[int, tuple[str, ...]] = {}
            pixels = {n: image.tagger_pixel_values for n, image in enumerate(images)}
            tagged = {n: values for n, values in pixels.items() if values is not None}
            if tagged and self.tagger is not None:
                found = self.tagger.tag_pixel_values(torch.cat(list(tagged.values())))
                tags = {n: tuple(names) for n, names in zip(tagged, found)}
            features = self.model.encode_images(torch.cat([image.pixel_values for image in images]).to(self.device))
        return [EncodedImage(features.select([n]), tags.get(n), image.size) for n, image in enumerate(images)]

    def level(self, question: Question) -> str:
        """
        The level that a question is routed to.

        Raises:
            TypeError, ValueError: prompt, tags or level of the question cannot be taken.
        """
        return self._text_inputs([question], [None])[1][0]

    @torch.inference_mode()
    def answer(
        self, images: Sequence[EncodedImage], questions: Sequence[Question], **generate_kwargs: Any
    ) -> list[Answer]:
        """
        Answer a question about each image, all at once; levels may be mixed.

        Args:
            images (`Sequence[EncodedImage]`): One for each question; an image may stand there several times.
            questions (`Sequence[Question]`): What to ask.
            generate_kwargs: Arguments of `generate` for all of them.

        Raises:
            TypeError, ValueError: there are not as many images as questions, or a question cannot be taken.
        """
        if len(images) != len(questions):
            raise ValueError(f"`images` must be one for each question, got {len(images)} for {len(questions)}")
        if not images:
            return []
        with self._turn:
            tags = self._tags(images, questions)
            text, levels = self._text_inputs(questions, tags)
            features = _joined([image.features for image in images])
            ids = self.model.generate(image_features=features, **text.to(self.device), **generate_kwargs)
            texts = [answer.strip() for answer in self.processor.batch_decode(ids, skip_special_tokens=True)]
            lengths = text["attention_mask"].sum(dim=1).tolist()
            pad, end = self.model.generation_config.pad_token_id, self.model.generation_config.eos_token_id
        answers = []
        found = self.processor.post_process_grounding(texts, [image.size for image in images])
        for row, (answer, grounding) in enumerate(zip(texts, found)):
            tokens = [token for token in ids[row, 1:].tolist() if token != pad]
            boxes = [[round(edge, 2) for edge in box] for box in grounding["boxes"].tolist()]
            finished = bool(tokens) and tokens[-1] in (end if isinstance(end, list) else [end])
            answers.append(
                Answer(answer, boxes, grounding["labels"], levels[row], tags[row], lengths[row], len(tokens), finished)
            )
        return answers

    @torch.inference_mode()
    def score(
        self, image: EncodedImage, question: Question, candidates: Sequence[str], length_normalize: bool = False
    ) -> list[float]:
        """The log-likelihood of each candidate answer; see [`LionForConditionalGeneration.score_candidates`]."""
        with self._turn:
            text, _ = self._text_inputs([question], self._tags([image], [question]))
            inputs = {**text.to(self.device), "image_features": image.features}
            ids = self.processor.encode_candidates(list(candidates)).to(self.device)
            return self.model.score_candidates(inputs, ids, length_normalize=length_normalize)[0].float().tolist()

    def stream(self, image: EncodedImage, question: Question, **generate_kwargs: Any) -> Iterator[str]:
        """
        Answer one question piece by piece, as the pieces come; with one beam, whatever the checkpoint's number is, as
        more beams change their minds.

        Closing the iterator ends the generation.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_special_tokens=True)
        stopped, errors = threading.Event(), []

        def stop(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return torch.full((len(input_ids),), stopped.is_set(), device=input_ids.device)

        def generate() -> None:
            try:
                with self._turn, torch.inference_mode():
                    text, _ = self._text_inputs([question], self._tags([image], [question]))
                    options = {"num_beams": 1, **generate_kwargs, "streamer": streamer}
                    options["stopping_criteria"] = StoppingCriteriaList([stop])
                    self.model.generate(image_features=image.features, **text.to(self.device), **options)
            except Exception as error:
                errors.append(error)
            finally:
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from filter(None, streamer)
        finally:
            stopped.set()
            thread.join()
        if errors:
            raise errors[0]

    def _tags(self, images: Sequence[EncodedImage], questions: Sequence[Question]) -> list[str | None]:
        """The tags of each prompt."""
        tags: list[str | None] = []
        for image, question in zip(images, questions):
            own = question.tags
            if own is None or own is True:
                own = image.tags
            elif own is False:
                own = None
            tags.append(own if own is None or isinstance(own, str) else ", ".join(own))
        return tags

    def _text_inputs(self, questions: Sequence[Question], tags: Sequence[str | None]) -> tuple[Any, list[str]]:
        text = self.processor(
            text=[question.text for question in questions],
            tags=list(tags),
            level=[question.level for question in questions],
            return_tensors="pt",
        )
        return text, [LEVELS[index] for index in text["level_ids"].tolist()]


def _joined(features: Sequence[LionImageFeatures]) -> LionImageFeatures:
    return LionImageFeatures(**{name: torch.cat([one[name] for one in features]) for name in features[0].keys()})
