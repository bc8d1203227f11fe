"""
The same work by the machines of a Ray cluster, on Ray Data: groups of requests go to workers that hold a model each,
and what becomes of them comes back to the one process that writes. Groups of workers that die go to others.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from lion_multimodal.prediction.inputs import Inputs
from lion_multimodal.prediction.runner import Batch, Group, Options, Predictor, group_requests
from modeling_lion.extras_lion import needs_extra


with needs_extra("ray", "lion predict --ray"):
    import pandas
    import ray
    import ray.data
    import ray.exceptions
    from ray.data.block import BlockMetadata


# Groups that a worker is given at once: the images of one are read while the one before is answered.
_GROUPS_AT_ONCE = 4
# Seconds in which a cluster must answer.
_PATIENCE = 10


class _Groups(ray.data.Datasource):
    """Groups, read one by one on a worker of the cluster."""

    def __init__(self, inputs: Inputs, batch_size: int, done: frozenset[tuple[int, int]]):
        super().__init__()
        self.inputs = inputs
        self.batch_size = batch_size
        self.done = done

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ray.data.ReadTask]:
        inputs, batch_size, done = self.inputs, self.batch_size, self.done

        def read() -> Iterator[pandas.DataFrame]:
            for group in group_requests(inputs.requests(), batch_size):
                if any((group.number, batch) not in done for batch in range(len(group.batches(batch_size)))):
                    yield pandas.DataFrame({"group": pandas.Series([group], dtype=object)})

        return [ray.data.ReadTask(read, BlockMetadata(None, None, None, None))]


class _Worker:
    """A model on a machine of the cluster."""

    def __init__(self, model: str | None, adapter: str | None, device: str | None, options: Options, done: frozenset):
        from lion_multimodal.engine import LionEngine

        self.predictor = Predictor(LionEngine.from_pretrained(model, adapter=adapter, device=device), options)
        self.done = done

    def __call__(self, groups: pandas.DataFrame) -> pandas.DataFrame:
        asked: list[Group] = list(groups["group"])
        answered = self.predictor.run(iter(asked), lambda group, batch: (group, batch) in self.done)
        return pandas.DataFrame({"batch": [json.dumps(asdict(batch)) for batch in answered]})


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes, and may end the process then."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        try:
            socket.create_connection((place.hostname, place.port), timeout=_PATIENCE).close()
        except OSError as error:
            raise ConnectionError(f"--ray {address}: no Ray cluster there: {error}") from error


def run_on_ray(
    address: str,
    inputs: Inputs,
    options: Options,
    done: Callable[[], set[tuple[int, int]]],
    *,
    model: str | None = None,
    adapter: str | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> Iterator[Batch]:
    """
    Answer on a Ray cluster, in any order.

    Args:
        address (`str`): The cluster's; `"auto"` for the one that this machine belongs to, `"local"` to start one here.
        inputs ([`Inputs`]): What is asked. Its files must be where the cluster's machines can read them.
        options ([`Options`]): How.
        done (`Callable`): Gives groups and batches that need not be answered any more.
        model, adapter, device (`str`, *optional*): What answers.
        workers (`int`, *optional*): How many; by default one for each GPU, or else for every two processors.

    Raises:
        ConnectionError: there is no such cluster.
    """
    started = not ray.is_initialized()
    if started:
        _check_reachable(address)
        try:
            ray.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"--ray {address}: no Ray cluster there: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Every group is a block of its own, so that they spread over the workers whatever their size.
    context.target_max_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if device in (None, "cuda") else 0
        count = workers or gpus or max(1, int(resources.get("CPU", 1)) // 2)
        finished = frozenset(done())
        groups = ray.data.read_datasource(
            _Groups(inputs, options.batch_size, finished), override_num_blocks=1, num_cpus=0.01
        )
        answers = groups.map_batches(
            _Worker,
            fn_constructor_args=(model, adapter, device, options, finished),
            batch_size=_GROUPS_AT_ONCE,
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=0.5,
            num_gpus=1 if gpus else 0,
        )
        for batch in answers.iter_batches(batch_size=None, batch_format="pandas"):
            for line in batch["batch"]:
                fields = json.loads(line)
                for name in ("answers", "errors"):
                    fields[name] = [(number, record) for number, record in fields[name]]
                yield Batch(**fields)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, (OSError, ValueError)) else error) from error
    finally:
        if started:
            ray.shutdown()
