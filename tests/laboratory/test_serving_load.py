"""The load on `lion serve` is counted, and its answers are compared."""

import asyncio
import dataclasses

from laboratory.speed.serving import batches, drive, make_exchanges
from lion_multimodal import asking
from lion_multimodal.engine import LionEngine
from tests.lion_multimodal.serving.conftest import serving


def test_load_is_counted_and_answers_are_compared():
    pipe = asking.load_pipeline(device="cpu")
    exchanges = make_exchanges(pipe, 2)
    assert len(exchanges) == 6
    with serving(LionEngine(pipe), max_wait_ms=20, max_queue=40) as running:
        load = asyncio.run(drive(running.url, exchanges, 8, 1.0))
        summary = load.summary()
        assert load.wrong == []
        assert dict(load.statuses) == {200: len(load.latencies)}
        assert summary["answers"] >= 8
        assert 0 < summary["p50_seconds"] <= summary["p95_seconds"]
        assert batches(running.url)["mean_batch_size"] > 1
        wrong = [dataclasses.replace(exchange, text="something else") for exchange in exchanges]
        load = asyncio.run(drive(running.url, wrong, 2, 0.2))
        assert len(load.wrong) == len(load.latencies) > 0
    load = asyncio.run(drive(running.url, exchanges, 2, 0.2))
    assert set(load.statuses) == {0}
