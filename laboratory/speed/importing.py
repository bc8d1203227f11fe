"""What `import modeling_lion` costs beyond transformers' Auto classes, in fresh processes."""

import logging
import statistics
import subprocess
import sys
from pathlib import Path

from laboratory.speed.measurement import Figure
from laboratory.speed.session import Session


logger = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[2]
_TIMED = "import time; s = time.process_time(); {statements}; print(time.process_time() - s)"
_AUTO_CLASSES = "from transformers import AutoModel, AutoProcessor"


def measure_import(session: Session) -> None:
    """Seconds of the processor, as the median over pairs of processes: other work on the machine does not count."""
    pairs = {
        "import/modeling-lion": (
            f"`import modeling_lion` beyond `{_AUTO_CLASSES}`",
            f"{_AUTO_CLASSES}; import modeling_lion",
            _AUTO_CLASSES,
            1.0,
        ),
        "import/model-class": (
            "LION's model class beyond InstructBLIP's",
            "from modeling_lion import LionForConditionalGeneration",
            "from transformers import InstructBlipForConditionalGeneration",
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
