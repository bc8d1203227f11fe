"""What all campaigns share: cases by a seed, what is expected of each, and the report."""

from __future__ import annotations

import json
import logging
import random
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from tqdm.auto import tqdm


FORESEEN = (ValueError, TypeError, OSError, StrictDataclassError)
"""What wrong input may raise, with a message that says why; the last is transformers' validation of configurations."""

_LONGEST_MESSAGE = 2000


@dataclass
class Report:
    """
    What a campaign found.

    Args:
        campaign (`str`): Its name.
        seed (`int`): What its cases were drawn by.
        cases (`int`): How many there were.
        kinds (`dict[str, int]`): How many of each kind.
        outcomes (`dict[str, int]`): How they ended.
        findings (`list[dict]`): The cases that ended as none should: `case`, `kind`, `what`.
        seconds (`float`): Wall-clock time.
    """

    campaign: str
    seed: int
    cases: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    findings: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def summary(self) -> str:
        """A line for people."""
        ended = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        return f"{self.campaign}: {self.cases} cases by seed {self.seed} in {self.seconds:.0f} s: {ended}"


Case = Callable[[random.Random], str]
"""Runs a case and says how it ended; an `AssertionError` is a finding."""


def run_cases(campaign: str, cases: dict[str, Case], count: int, seed: int, first: int = 0) -> Report:
    """
    Run cases `first` to `first + count`. Each is drawn by the seed and its own number: one alone can be repeated.

    Args:
        campaign (`str`): Its name.
        cases (`dict[str, Callable]`): Kinds of cases, taken in turn.
        count (`int`): How many cases.
        seed (`int`): What they are drawn by.
    """
    logging.disable(logging.WARNING)  # of what is refused there are thousands of lines
    report, kinds, outcomes = Report(campaign, seed), Counter(), Counter()
    started, names = time.perf_counter(), list(cases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in tqdm(range(first, first + count), campaign, mininterval=2):
            kind = names[number % len(names)]
            try:
                outcome = cases[kind](random.Random(f"{seed}/{number}"))
            except AssertionError as error:
                outcome = "finding"
                report.findings.append({"case": number, "kind": kind, "what": str(error)[:_LONGEST_MESSAGE]})
            kinds[kind] += 1
            outcomes[outcome] += 1
    report.cases, report.kinds, report.outcomes = count, dict(kinds), dict(outcomes)
    logging.disable(logging.NOTSET)
    report.seconds = round(time.perf_counter() - started, 1)
    return report


def attempt(function: Callable[[], object], patience: float = 5.0) -> str:
    """
    Call a function that may refuse what it is given: `"done"`, or `"refused"` by an error of a line.

    Args:
        function (`Callable`): What to call.
        patience (`float`): Processor seconds that it may take.

    Raises:
        AssertionError: it ended in another way, or took longer.
    """
    started = time.process_time()
    try:
        function()
        outcome = "done"
    except FORESEEN as error:
        _check_message(type(error).__name__, str(error))
        outcome = "refused"
    except BaseException as error:  # panics of libraries in Rust are no `Exception`s
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        raise AssertionError(f"{type(error).__name__} at {where}: {str(error)[:300]}") from error
    seconds = time.process_time() - started
    assert seconds <= patience, f"took {seconds:.1f} s of the processor"
    return outcome


def _check_message(kind: str, message: str) -> None:
    assert message, f"{kind} without a message"
    assert len(message) <= _LONGEST_MESSAGE, f"{kind} with a message of {len(message)} characters: {message[:100]}"
