"""
From requests to answers: images are read and preprocessed beside the model, every image is encoded once, and questions
of both levels are answered in batches.

Batches depend on the requests alone: not on what is answered already, nor on how many processes share them. As nothing
that is computed leaves its group, a run that goes on gives what an uninterrupted one gives.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lion_multimodal.prediction.drawings import draw
from lion_multimodal.prediction.inputs import Request


if TYPE_CHECKING:
    from lion_multimodal.engine import EncodedImage, LionEngine, PreparedImage
    from lion_multimodal.engine import Question as AskedQuestion


BATCH_SIZE = 16
"""Images encoded at once, and questions asked at once, where there are many."""

# Questions of a group, in batches: what a run holds at a time, whatever is asked about an image.
_MOST_BATCHES = 64
# Groups whose images are read before they are needed.
_AHEAD = 2


@dataclass(frozen=True)
class Group:
    """
    Requests whose images are encoded together.

    Args:
        number (`int`): Its place among all groups.
        requests (`Sequence[Request]`): In order.
    """

    number: int
    requests: Sequence[Request]

    @property
    def rows(self) -> int:
        """How many rows it is about."""
        return len({request.row_number for request in self.requests})

    @property
    def images(self) -> int:
        """How many images."""
        return len({request.key for request in self.requests if request.row.error is None})

    def batches(self, batch_size: int) -> list[list[int]]:
        """
        What is asked at once, as places in the group. Equal questions stand together: their answers are of similar
        length, and a batch takes as long as its longest one.
        """
        asked: dict[tuple[str | None, str | None], int] = {}
        kinds = [
            asked.setdefault((request.question.prompt, request.question.level), len(asked)) for request in self.requests
        ]
        order = sorted(range(len(self.requests)), key=lambda place: kinds[place])
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def group_requests(requests: Iterable[Request], batch_size: int) -> Iterator[Group]:
    """Groups of requests that follow one another, with `batch_size` images each."""
    number = 0
    group: list[Request] = []
    images: set[Hashable] = set()
    for request in requests:
        full = request.key not in images and len(images) == batch_size
        if group and (full or len(group) == _MOST_BATCHES * batch_size):
            yield Group(number, tuple(group))
            number, group, images = number + 1, [], set()
        group.append(request)
        images.add(request.key)
    if group:
        yield Group(number, tuple(group))


@dataclass(frozen=True)
class Batch:
    """
    What became of a batch of requests.

    Args:
        group (`int`): The group's number.
        batch (`int`): The batch's number in it.
        batches (`int`): How many there are in it.
        rows, images (`int`): How many rows and images the group is about.
        answers (`list[tuple[int, dict]]`): Records by the numbers of their requests.
        errors (`list[tuple[int, dict]]`): The same of requests that have no answer, with the reason under `error`.
    """

    group: int
    batch: int
    batches: int
    rows: int
    images: int
    answers: list[tuple[int, dict[str, Any]]]
    errors: list[tuple[int, dict[str, Any]]]

    @property
    def is_last(self) -> bool:
        """Whether the group ends with it."""
        return self.batch == self.batches - 1


@dataclass(frozen=True)
class Options:
    """
    How is answered.

    Args:
        batch_size (`int`): Images encoded at once, and questions asked at once.
        generate_kwargs (`dict`): Arguments of `generate`.
        seed (`int`): Of what is drawn, if answers are sampled.
        workers (`int`): Threads that read and preprocess images.
    """

    batch_size: int = BATCH_SIZE
    generate_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True)
class _Ready:
    """An image that was read; itself only where it is to be drawn on."""

    prepared: PreparedImage
    image: Any


class Predictor:
    """
    Answers groups of requests.

    Args:
        engine ([`LionEngine`]): What answers.
        options ([`Options`]): How.
    """

    def __init__(self, engine: LionEngine, options: Options):
        self.engine = engine
        self.options = options

    def run(
        self, groups: Iterable[Group], is_done: Callable[[int, int], bool] = lambda group, batch: False
    ) -> Iterator[Batch]:
        """
        Answer batch by batch, in order.

        Args:
            groups (`Iterable[Group]`): What is asked; read as far ahead as images are.
            is_done (`Callable`): Tells of a group's and a batch's number whether it need not be answered any more.
        """
        waiting: deque[tuple[Group, dict[Hashable, Future[_Ready]]]] = deque()
        todo = (group for group in groups if not self._is_done(group, is_done))
        with ThreadPoolExecutor(self.options.workers, thread_name_prefix="images") as pool:
            try:
                while True:
                    # One more than is ahead: the one that is answered now.
                    while len(waiting) <= _AHEAD and (group := next(todo, None)) is not None:
                        waiting.append((group, self._read_ahead(group, pool)))
                    if not waiting:
                        return
                    group, images = waiting.popleft()
                    yield from self._answer_group(group, images, is_done)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _is_done(self, group: Group, is_done: Callable[[int, int], bool]) -> bool:
        count = len(group.batches(self.options.batch_size))
        return all(is_done(group.number, batch) for batch in range(count))

    def _read_ahead(self, group: Group, pool: ThreadPoolExecutor) -> dict[Hashable, Future[_Ready]]:
        sources: dict[Hashable, Any] = {}
        tagged, drawn = set(), set()
        for request in group.requests:
            if request.row.error is not None:
                continue
            sources.setdefault(request.key, request.row.source)
            if request.question.tags is None:
                tagged.add(request.key)
            if request.drawing is not None:
                drawn.add(request.key)
        return {key: pool.submit(self._read, source, key in tagged, key in drawn) for key, source in sources.items()}

    def _read(self, source: Any, tag: bool, keep: bool) -> _Ready:
        from processing_lion.image_loading_lion import load_image

        if not keep:
            return _Ready(self.engine.prepare(source, tag=tag), None)
        image = load_image(source)
        return _Ready(self.engine.prepare(image, tag=tag), image)

    def _answer_group(
        self, group: Group, images: dict[Hashable, Future[_Ready]], is_done: Callable[[int, int], bool]
    ) -> Iterator[Batch]:
        ready: dict[Hashable, _Ready] = {}
        broken: dict[Hashable, str] = {}
        for key, future in images.items():
            try:
                ready[key] = future.result()
            except (OSError, TypeError, ValueError) as error:
                broken[key] = " ".join(str(error).split()) or type(error).__name__
        encoded = dict(zip(ready, self.engine.encode([image.prepared for image in ready.values()])))
        batches = group.batches(self.options.batch_size)
        for number, places in enumerate(batches):
            if is_done(group.number, number):
                continue
            requests = [group.requests[place] for place in sorted(places)]
            errors = {}
            for request in requests:
                reason = request.row.error or broken.get(request.key)
                if reason is not None:
                    errors[request.number] = self._error(request, reason, unread=request.row.error is None)
            asked = [request for request in requests if request.number not in errors]
            answers = self._answer(group.number, number, asked, encoded, errors)
            for request in asked:
                if request.drawing is not None and request.number in answers:
                    record = answers[request.number]
                    draw(ready[request.key].image, record["boxes"], record["labels"], Path(request.drawing))
                    record["drawing"] = request.drawing
            yield Batch(
                group=group.number,
                batch=number,
                batches=len(batches),
                rows=group.rows,
                images=group.images,
                answers=sorted(answers.items()),
                errors=sorted(errors.items()),
            )

    def _answer(
        self,
        group: int,
        batch: int,
        requests: Sequence[Request],
        encoded: dict[Hashable, EncodedImage],
        errors: dict[int, dict[str, Any]],
    ) -> dict[int, dict[str, Any]]:
        """The records of a batch; what cannot be asked goes to `errors`, and costs the others nothing."""
        while requests:
            questions = [_question(request) for request in requests]
            self._seed(group, batch)
            try:
                found = self.engine.answer(
                    [encoded[request.key] for request in requests], questions, **self.options.generate_kwargs
                )
            except (TypeError, ValueError):
                unfit = {}
                for request, question in zip(requests, questions):
                    try:
                        self.engine.level(question)
                    except (TypeError, ValueError) as error:
                        unfit[request.number] = self._error(request, str(error), unread=False)
                if not unfit:
                    raise
                errors.update(unfit)
                requests = [request for request in requests if request.number not in unfit]
                continue
            return {
                request.number: {
                    "id": request.row.id,
                    "image": request.row.image,
                    "prompt": question.text,
                    "level": answer.level,
                    "tags": answer.tags,
                    "generated_text": answer.text,
                    "boxes": answer.boxes,
                    "labels": answer.labels,
                }
                for request, question, answer in zip(requests, questions, found)
            }
        return {}

    def _seed(self, group: int, batch: int) -> None:
        """What is drawn depends on the batch alone."""
        if self.options.generate_kwargs.get("do_sample"):
            import torch

            digest = hashlib.sha256(f"{self.options.seed}/{group}/{batch}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "big"))

    @staticmethod
    def _error(request: Request, reason: str, unread: bool) -> dict[str, Any]:
        kind = "image" if unread else "row"
        record = {"id": request.row.id, "image": request.row.image, "prompt": request.question.prompt}
        return {**record, "kind": kind, "error": reason}


def _question(request: Request) -> AskedQuestion:
    from lion_multimodal.engine import Question

    return Question(request.question.prompt, request.question.tags, request.question.level or "auto")


def peek(requests: Iterator[Request], count: int) -> tuple[int, Iterator[Request]]:
    """How many requests there are, up to `count`, and all of them."""
    first = list(itertools.islice(requests, count))
    return len(first), itertools.chain(first, requests)
