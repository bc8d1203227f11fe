"""What `import modeling_lion` costs beyond torch and transformers, in fresh processes."""

import logging
import statistics
import subprocess
import sys
from pathlib import Path

from laboratory.speed.measurement import Figure
from laboratory.speed.session import Session


logger = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[2]
_TIMED = "import time; s = time.perf_counter(); {statements}; print(time.perf_counter() - s)"
_IMPORTS = "import torch, transformers"


def measure_import(session: Session) -> None:
    """Seconds, as the median over pairs of processes."""
    pairs = {
        "import/modeling-lion": (
            "`import modeling_lion` beyond `import torch, transformers`",
            f"{_IMPORTS}, modeling_lion",
            _IMPORTS,
            0.5,
        ),
        "import/model-class": (
            "LION's model class beyond InstructBLIP's",
            f"{_IMPORTS}; from modeling_lion import LionForConditionalGeneration",
            f"{_IMPORTS}; from transformers import InstructBlipForConditionalGeneration",
            None,
        ),
    }
    for name in session.wanted(*pairs) if session.device == "cpu" else ():
        title, candidate, reference, target = pairs[name]
        logger.info("%s: %s", name, title)
        rounds: dict[str, list[float]] = {candidate: [], reference: []}
        for number in range(session.repeats + 1):
            for statements, seconds in rounds.items():
                elapsed = _run(statements)
                if number > 0:  # the first one reads files that the others find in memory
                    seconds.append(elapsed)
        session.add(
            Figure(
                name=name,
                title=title,
                value=statistics.median(a - b for a, b in zip(rounds[candidate], rounds[reference])),
                unit="s",
                target=target,
                seconds={
                    "with LION": statistics.median(rounds[candidate]),
                    "without": statistics.median(rounds[reference]),
                },
                rounds={"with LION": rounds[candidate], "without": rounds[reference]},
            )
        )


def _run(statements: str) -> float:
    process = subprocess.run(
        [sys.executable, "-c", _TIMED.format(statements=statements)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        raise RuntimeError(f"`{statements}` failed:\n{process.stderr}")
    return float(process.stdout.split()[-1])
