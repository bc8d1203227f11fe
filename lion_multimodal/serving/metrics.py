"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """
    Counters, gauges and histograms of one server, in a registry of its own.

    Args:
        queue_length (`Callable[[], float]`): How many requests wait.
        cached_bytes (`Callable[[], float]`): How large the cache of images is.
    """

    def __init__(self, queue_length: Callable[[], float], cached_bytes: Callable[[], float]):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"lion_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(f"lion_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests", "Requests, by answer.", "endpoint", "status")
        self.request_seconds = histogram("request_seconds", "From a request's head to its whole answer.", "endpoint")
        self.queue_seconds = histogram("queue_seconds", "From a question's being ready to its batch.")
        self.first_piece_seconds = histogram("first_piece_seconds", "From a request's head to a stream's first words.")
        self.batch_size = histogram("batch_size", "Questions answered together.", buckets=_SIZES)
        self.batch_seconds = histogram("batch_seconds", "The model's time for a batch.")
        self.mixed_batches = counter("mixed_batches", "Batches with questions of both levels.")
        self.answers = counter("answers", "Answers.", "level", "finish_reason")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self.answer_tokens = counter("answer_tokens", "Tokens of answers.")
        self.images = counter(
            "images", "Images asked about: encoded for it, or shared with another question.", "source"
        )
        self.cancelled = counter("cancelled", "Questions whose asker went away.")
        queue = Gauge("lion_queue_length", "Requests that wait for the model.", registry=registry)
        queue.set_function(queue_length)
        cache = Gauge("lion_image_cache_bytes", "Size of the encoded images that are kept.", registry=registry)
        cache.set_function(cached_bytes)
