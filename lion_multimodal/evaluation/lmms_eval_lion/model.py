"""The model class that lmms-eval loads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from lion_multimodal.evaluation.answering import Answerer
from lion_multimodal.evaluation.lmms_eval_lion.request_answerer import RequestAnswerer
from modeling_lion.extras_lion import needs_extra


with needs_extra("lmms-eval", "The model `lion` of lmms-eval"):
    from accelerate import PartialState
    from lmms_eval.api.instance import GenerationResult
    from lmms_eval.api.model import lmms
    from loguru import logger as lmms_eval_logger


class _LmmsEvalHandler(logging.Handler):
    """Passes messages on to where lmms-eval writes its own."""

    def emit(self, record: logging.LogRecord) -> None:
        lmms_eval_logger.log(record.levelname, record.getMessage())


class _Pair(tuple):
    """
    A loss, and whether greedy decoding gives the candidate.

    lmms-eval's cache of responses gives pairs back as strings, which no task can score. It keeps no answers that are
    blank: this one seems to be, and is computed again.
    """

    def strip(self) -> str:
        return ""


class Lion(lmms):
    """
    LION in lmms-eval: one image and one question at a time, generated answers and scored candidates.

    Args (`--model_args`):
        pretrained: directory of a checkpoint, or a repo on the Hub.
        revision: branch, tag or commit on the Hub.
        device: as in torch; by default this process's accelerator, or the CPU. Also `--device`.
        dtype: `"auto"` (the checkpoint's own), `"float32"`, `"bfloat16"` or `"float16"`.
        batch_size: images encoded and questions asked at once. Given as `--batch_size`.
        tags: `"tagger"` to put what the checkpoint's tagger sees into the prompts, or `"none"`.
        level: how questions are routed: `"auto"` (by their words), `"image_level"` or `"region_level"`. `task` is its
            former name.
        num_beams: in place of what tasks say.
        prompts: `"lion"` to ask in the words that LION was trained with, where `wordings` has some for what a task
            asks; `"task"` to ask in the task's. The first question of each task is logged.

    Raises:
        ValueError: an argument is outside what is described here.
        OSError: there is no checkpoint at that place, or no tagger with it.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        tags: str = "tagger",
        level: str | None = None,
        num_beams: int | None = None,
        prompts: str = "lion",
        task: str | None = None,
    ) -> None:
        super().__init__()
        if level is not None and task is not None:
            raise ValueError("task is the former name of level: only one of them must be given")
        if tags not in ("tagger", "none"):
            raise ValueError(f"tags must be tagger or none, got {tags!r:.100}")
        if not str(batch_size).isdecimal():
            raise ValueError(f"batch_size must be a number, got {batch_size!r:.100}")
        state = PartialState()
        self._rank, self._world_size = state.process_index, state.num_processes
        answerer = Answerer.from_pretrained(
            pretrained,
            # A revision of digits alone arrives as a number.
            revision=None if revision is None else str(revision),
            tags=tags,
            batch_size=int(batch_size),
            dtype=dtype,
            device=device or state.device,
        )
        self._device = answerer.model.device
        log = logging.getLogger(__package__)
        if not any(isinstance(handler, _LmmsEvalHandler) for handler in log.handlers):
            log.addHandler(_LmmsEvalHandler())
            log.propagate = False
        log.setLevel(logging.INFO if self._rank == 0 else logging.WARNING)
        # lmms-eval fills `task_dict` later.
        self._answerer: RequestAnswerer | None = RequestAnswerer(
            answerer, self.task_dict, level or task or "auto", num_beams, prompts, progress=self._rank == 0
        )

    @property
    def device(self) -> torch.device:
        """Where lmms-eval gathers what several processes have found."""
        return self._device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return self._loaded().generate(requests)

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        # lmms-eval 0.7 turns a bare pair into a string, which no task can score; what is wrapped arrives as it is.
        return [GenerationResult(_Pair(pair)) for pair in self._loaded().score(requests)]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        task = requests[0].task_name
        raise NotImplementedError(f"{task} is a conversation of several rounds; LION answers one question at a time")

    def clean(self) -> None:
        """Frees the model, when all requests are answered and only scoring is left."""
        self._answerer = None
        super().clean()

    def _loaded(self) -> RequestAnswerer:
        if self._answerer is None:
            raise RuntimeError("the model has been freed by clean()")
        return self._answerer
