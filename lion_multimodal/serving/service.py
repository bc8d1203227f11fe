"""From a request to its answer, without a word of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from lion_multimodal.engine import Answer, EncodedImage, LionEngine, PreparedImage, Question
from lion_multimodal.serving.batching import Batcher
from lion_multimodal.serving.errors import APIError, shutting_down
from lion_multimodal.serving.images import ImageCache, decode_data_url, digest, fetch, is_remote, prepare
from lion_multimodal.serving.metrics import Metrics
from lion_multimodal.serving.protocol import ChatRequest, finish_reason
from lion_multimodal.serving.settings import ServerSettings
from lion_multimodal.serving.streaming import Cancellable, PieceStreamer


logger = logging.getLogger(__name__)

# Threads that wait for other machines, and so cost little.
_FETCHERS = 32
# No token is longer: a prompt above this many characters for each allowed token is not counted any more.
_LONGEST_TOKEN = 64

T = TypeVar("T")


@dataclass(eq=False)
class Ticket:
    """
    A request's place.

    Attributes:
        since (`float`): When it came, by `time.perf_counter`.
        waiting (`bool`): Whether its answer has not been begun.
    """

    since: float = field(default_factory=time.perf_counter)
    waiting: bool = True


@dataclass(eq=False)
class Job:
    """
    A question whose image is ready.

    Attributes:
        ticket (`Ticket`): Its request's.
        question (`Question`): What is asked.
        image (`PreparedImage` or `EncodedImage`): What about.
        image_key (`bytes`): The image's digest.
        options (`dict`): Arguments of `generate`.
        key: What questions of one batch have in common.
        answer (`asyncio.Future`): What comes of it.
        pieces (`asyncio.Queue`, *optional*): For a stream, its words; None at their end.
        cancelled (`threading.Event`): Set when nobody waits for the answer any more.
        sent (`str`): The words that were streamed.
        submitted (`float`): When it was handed in, by the event loop's clock.
    """

    ticket: Ticket
    question: Question
    image: PreparedImage | EncodedImage
    image_key: bytes
    options: dict[str, Any]
    key: Hashable
    answer: asyncio.Future[Answer]
    pieces: asyncio.Queue[str | None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    sent: str = ""
    submitted: float = 0.0


class Service:
    """
    Answers requests by an engine: images are read by threads beside the model, questions wait for their batch.

    Args:
        engine ([`LionEngine`]): What answers.
        settings ([`ServerSettings`], *optional*): Limits.
    """

    def __init__(self, engine: LionEngine, settings: ServerSettings | None = None):
        self.engine, self.settings = engine, settings or ServerSettings()
        self.cache = ImageCache(self.settings.image_cache_bytes)
        self.metrics = Metrics(lambda: self.queue_length, lambda: self.cache.size)
        self.is_stopping = False
        self._tickets: set[Ticket] = set()
        self._jobs: set[Job] = set()
        self._batch_seconds = 0.5
        self._batcher: Batcher[Job] | None = None
        self._running: asyncio.Task[None] | None = None
        self._model = ThreadPoolExecutor(1, "lion-model")
        self._readers = ThreadPoolExecutor(self.settings.image_workers, "lion-images")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "lion-fetch")

    # --- Beginning and end ---

    async def start(self) -> None:
        """Begin to answer, in the event loop that runs."""
        settings = self.settings
        self._batcher = Batcher(self._process, settings.max_batch_size, settings.max_wait_ms / 1000)
        self._running = asyncio.create_task(self._batcher.run())

    async def close(self) -> None:
        """Answer nothing any more."""
        self.abort()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for pool in (self._model, self._readers, self._fetchers):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self._running is not None and not self._running.done() and not self.is_stopping

    @property
    def unfinished(self) -> int:
        """How many requests are not answered yet."""
        return len(self._tickets)

    @property
    def queue_length(self) -> int:
        """How many requests wait for the model."""
        return sum(ticket.waiting for ticket in self._tickets)

    async def finish(self, timeout: float) -> int:
        """Take no more requests, and wait for those that were taken; the number of those that took too long."""
        self.is_stopping = True
        if self._batcher is not None:
            self._batcher.hurry()
        end = time.monotonic() + timeout
        while self._tickets and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return len(self._tickets)

    def abort(self) -> None:
        """Let all that wait for an answer know that there will be none."""
        for job in list(self._jobs):
            self._fail(job, shutting_down())

    @contextlib.contextmanager
    def admitted(self) -> Iterator[Ticket]:
        """
        A request's time here.

        Raises:
            APIError: there are too many, or the server is stopping.
        """
        if not self.is_ready:
            raise shutting_down()
        if self.queue_length >= self.settings.max_queue:
            batches = self.settings.max_queue / self.settings.max_batch_size
            seconds = min(60, max(1, math.ceil(batches * self._batch_seconds)))
            message = f"{self.settings.max_queue} requests are waiting already. Try again in {seconds} s."
            raise APIError(429, message, code="queue_full", retry_after=seconds)
        ticket = Ticket()
        self._tickets.add(ticket)
        try:
            yield ticket
        finally:
            self._tickets.discard(ticket)

    # --- A request ---

    async def ask(self, request: ChatRequest, ticket: Ticket) -> Answer:
        """
        The answer to a request.

        Raises:
            APIError: there is none, for a reason that the asker can know.
        """
        job = await self._job(request, ticket)
        with self._handed_in(job):
            return await job.answer

    async def stream(self, request: ChatRequest, ticket: Ticket) -> AsyncIterator[str | Answer]:
        """
        The answer to a request, in pieces; at last the answer as a whole.

        Raises:
            APIError: there is none, for a reason that the asker can know.
        """
        job = await self._job(request, ticket)
        job.pieces = asyncio.Queue()
        with self._handed_in(job):
            while (piece := await job.pieces.get()) is not None:
                if not job.sent:
                    self.metrics.first_piece_seconds.observe(time.perf_counter() - ticket.since)
                job.sent += piece
                yield piece
            answer = await job.answer
            rest = answer.text.removeprefix(job.sent)
            if job.sent and rest == answer.text:
                logger.error("the pieces of an answer are not its beginning: %r of %r", job.sent, answer.text)
            elif rest:
                yield rest
        yield answer

    @contextlib.contextmanager
    def _handed_in(self, job: Job) -> Iterator[None]:
        assert self._batcher is not None, "the service was not started"
        self._batcher.submit(job)
        self._jobs.add(job)
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.metrics.cancelled.inc()
            raise
        finally:
            self._jobs.discard(job)
            job.cancelled.set()
            self._batcher.withdraw(job)

    async def _job(self, request: ChatRequest, ticket: Ticket) -> Job:
        request.check()
        url, options = request.image_url(), self._options(request)
        remote = is_remote(url)
        question = await self._in(self._readers, self._question, request)
        if remote:
            content = await self._in(self._fetchers, fetch, url, self.settings)
        else:
            content = await self._in(self._readers, decode_data_url, url, self.settings)
        key, tag = await self._in(self._readers, digest, content), self._wants_tags(question)
        image: PreparedImage | EncodedImage | None = self.cache.get(key, tag)
        if image is None:
            image = await self._in(self._readers, prepare, self.engine, content, tag, self.settings)
        batch_key: list[Hashable] = [bool(request.stream), *sorted(options.items())]
        if "seed" in options:  # what is drawn depends on the whole batch
            batch_key.append(id(ticket))
        answer = asyncio.get_running_loop().create_future()
        return Job(ticket, question, image, key, options, tuple(batch_key), answer)

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(function, *args))

    def _wants_tags(self, question: Question) -> bool:
        return self.engine.tagger is not None and (question.tags is None or question.tags is True)

    def _question(self, request: ChatRequest) -> Question:
        """What a request asks, if it is short enough to be read whole."""
        processor = self.engine.processor
        longest = min(processor.max_text_length, self.settings.max_prompt_tokens or processor.max_text_length)
        tags = request.tags
        try:
            text = processor.apply_chat_template(request.conversation)
            question = Question(text, tags, request.level or "auto")
            read = text + (tags if isinstance(tags, str) else "".join(tags) if isinstance(tags, list) else "")
            if len(read) > longest * _LONGEST_TOKEN:
                raise _too_long(longest, f"{len(read)} characters")
            # Of tags that the tagger finds, those are left out that there is no room for.
            shown: Any = "" if self._wants_tags(question) else (None if tags in (None, True, False) else tags)
            shown = ", ".join(shown) if isinstance(shown, list) else shown
            inputs = processor(text=[text], tags=[shown], level=[question.level], truncation=False)
            tokens = int(inputs["attention_mask"].sum())
            if tokens > longest:
                raise _too_long(longest, f"{tokens} tokens")
            qformer_tokens = len(processor.qformer_tokenizer(text, verbose=False)["input_ids"])
            if qformer_tokens > processor.max_qformer_text_length:
                raise _too_long(processor.max_qformer_text_length, f"{qformer_tokens} tokens, as the Q-Former reads it")
        except (TypeError, ValueError) as error:
            raise APIError(400, f"The messages cannot be asked: {error}.", param="messages") from error
        return question

    def _options(self, request: ChatRequest) -> dict[str, Any]:
        """Arguments of `generate`; none where the checkpoint's own are meant."""
        own, options = self.engine.model.generation_config, {}
        own_length = own.max_new_tokens or (own.max_length or 0) - 1
        length = request.max_answer_tokens
        if length is not None and length > self.settings.max_answer_tokens:
            name = "max_tokens" if request.max_tokens is not None else "max_completion_tokens"
            message = f"`{name}` must be at most {self.settings.max_answer_tokens}, got {length}."
            raise APIError(400, message, param=name)
        length = min(own_length, self.settings.max_answer_tokens) if length is None else length
        if length != own_length:
            options["max_new_tokens"] = length
        if request.temperature or (request.temperature is None and request.top_p not in (None, 1)):
            options |= {"do_sample": True, "num_beams": 1, "temperature": request.temperature or 1.0}
            options |= {} if request.top_p is None else {"top_p": request.top_p}
            options |= {} if request.seed is None else {"seed": request.seed}
        elif request.temperature == 0 and own.do_sample:
            options["do_sample"] = False
        if request.stream:
            options["num_beams"] = 1
        return options

    # --- The model ---

    async def _process(self, jobs: list[Job]) -> None:
        loop = asyncio.get_running_loop()
        for job in jobs:
            job.ticket.waiting = False
            self.metrics.queue_seconds.observe(loop.time() - job.submitted)
        started = time.perf_counter()
        results = await loop.run_in_executor(self._model, self._answer_each, jobs, loop)
        seconds = time.perf_counter() - started
        self._batch_seconds += 0.2 * (seconds - self._batch_seconds)
        self.metrics.batch_size.observe(len(jobs))
        self.metrics.batch_seconds.observe(seconds)
        if len({result.level for result in results if isinstance(result, Answer)}) > 1:
            self.metrics.mixed_batches.inc()
        for job, result in zip(jobs, results):
            if isinstance(result, Exception):
                self._fail(job, result)
                continue
            self.metrics.answers.labels(result.level, finish_reason(result)).inc()
            self.metrics.prompt_tokens.inc(result.prompt_tokens)
            self.metrics.answer_tokens.inc(result.answer_tokens)
            if not job.answer.done():
                job.answer.set_result(result)
            if job.pieces is not None:
                job.pieces.put_nowait(None)

    @staticmethod
    def _fail(job: Job, error: Exception) -> None:
        if not job.answer.done():
            job.answer.set_exception(error)
            job.answer.exception()  # seen, even if its asker is gone
        if job.pieces is not None:
            job.pieces.put_nowait(None)

    def _answer_each(self, jobs: list[Job], loop: asyncio.AbstractEventLoop) -> list[Answer | Exception]:
        """Answers in the model's thread; what goes wrong with a batch is tried once more with each question alone."""
        try:
            return list(self._answer(jobs, loop))
        except Exception as error:
            if len(jobs) == 1:
                logger.exception("a question could not be answered")
                return [error]
            logger.warning("a batch of %d failed (%s); its questions are asked one by one", len(jobs), error)
        results: list[Answer | Exception] = []
        for job in jobs:
            # Words that were sent cannot be taken back.
            results += [RuntimeError("the batch failed")] if job.sent else self._answer_each([job], loop)
        return results

    def _answer(self, jobs: list[Job], loop: asyncio.AbstractEventLoop) -> list[Answer]:
        images = self._encode(jobs)
        options = dict(jobs[0].options)
        seed = options.pop("seed", None)
        streams = [(job, job.pieces) for job in jobs if job.pieces is not None]
        if streams:
            end = self.engine.model.generation_config.eos_token_id

            def emit(row: int, piece: str) -> None:
                loop.call_soon_threadsafe(streams[row][1].put_nowait, piece)

            ends = end if isinstance(end, list) else [end]
            options["streamer"] = PieceStreamer(self.engine.processor.tokenizer, ends, emit, len(streams))
            options["stopping_criteria"] = [Cancellable([job.cancelled.is_set for job in jobs])]
        with _seeded(seed):
            return self.engine.answer(images, [job.question for job in jobs], **options)

    def _encode(self, jobs: Sequence[Job]) -> list[EncodedImage]:
        """The image of each question: encoded now, all that are new at once, or already."""
        images: dict[tuple[bytes, bool], EncodedImage] = {}
        new: dict[tuple[bytes, bool], PreparedImage] = {}
        keys = []
        for job in jobs:
            key = (job.image_key, self._wants_tags(job.question))
            keys.append(key)
            if isinstance(job.image, EncodedImage):
                images[key] = job.image
            elif key not in images and key not in new:
                cached = self.cache.get(*key)
                if cached is None:
                    new[key] = job.image
                else:
                    images[key] = cached
        for key, image in zip(new, self.engine.encode(list(new.values()))):
            images[key] = image
            self.cache.put(*key, image)
        self.metrics.images.labels("encoded").inc(len(new))
        self.metrics.images.labels("shared").inc(len(jobs) - len(new))
        return [images[key] for key in keys]


def _too_long(limit: int, length: str) -> APIError:
    message = f"A prompt, its tags included, must have at most {limit} tokens; this one has {length}."
    return APIError(400, message, code="context_length_exceeded", param="messages")


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Random numbers of their own, where a seed is given."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
