"""Checkpoints damaged at random: each is refused by a line, or still answers; none ends in a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from laboratory.campaigns.campaign import Case, Report, run_cases
from laboratory.campaigns.fuzz import value
from lion_multimodal import checkpoints
from lion_multimodal.checkpoints import demo_scenes


_BINARY = ("model.safetensors", "tagger/model.safetensors")
_JSON = (
    "config.json",
    "tagger/config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "qformer_tokenizer/tokenizer.json",
    "tagger/preprocessor_config.json",
)


def damage_bytes(draw: random.Random, checkpoint: Path) -> str:
    """Cut a file off, empty it, or change some of its first bytes; say which."""
    name = draw.choice(_BINARY + _JSON)
    file = checkpoint / name
    content = bytearray(file.read_bytes())
    how = draw.choice(("cut off", "emptied", "changed", "garbage", "deleted"))
    if how == "cut off":
        content = content[: draw.randrange(len(content))]
    elif how == "emptied":
        content = bytearray()
    elif how == "changed":
        for _ in range(3):
            content[draw.randrange(min(len(content), 4000))] = draw.randrange(256)
    elif how == "garbage":
        content = bytearray(draw.randbytes(500))
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes(bytes(content))
    return f"{name} {how}"


def damage_json(draw: random.Random, checkpoint: Path) -> str:
    """Leave a field out of a configuration, or give it another value; say which."""
    name = draw.choice(("config.json", "config.json", "tagger/config.json", *_JSON[2:6], _JSON[7]))
    file = checkpoint / name
    content = json.loads(file.read_text(encoding="utf-8"))
    node: Any = content
    path = []
    while isinstance(node, dict) and node:
        key = draw.choice(sorted(node))
        path.append(key)
        if not isinstance(node[key], dict) or not node[key] or draw.random() < 0.4:
            break
        node = node[key]
    new = "left out"
    if draw.random() < 0.3:
        del node[path[-1]]
    else:
        new = None
        while not _is_json(new := value(draw)):
            pass
        node[path[-1]] = new
    file.write_text(json.dumps(content), encoding="utf-8")
    return f"{name}: {'.'.join(path)} {new!r}"


def _is_json(found: Any) -> bool:
    try:
        json.dumps(found).encode()
    except (TypeError, ValueError):
        return False
    return True


def _case(damage: Any) -> Case:
    def run_one(draw: random.Random) -> str:
        from lion_multimodal.cli.main import main

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(shutil.copytree(checkpoints.path("nano"), Path(folder, "nano")))
            what = damage(draw, checkpoint)
            image = Path(folder, "scene.png")
            demo_scenes()[0].image.save(image)
            arguments = ["predict", str(image), "--model", str(checkpoint), "--device", "cpu"]
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    status = main([*arguments, "--num-beams", "1", "--max-new-tokens", "2"])
                except BaseException as error:  # panics of libraries in Rust are no `Exception`s
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error
            lines = [line for line in err.getvalue().splitlines() if line.startswith("lion: ")]
            if status == 0:
                assert out.getvalue().strip() or not lines, f"{what}: no answer"
                return "answered"
            assert status in (1, 70), f"{what}: status {status}: {lines[-1:]}"
            assert lines, f"{what}: status {status} without a line"
            # Values that show only when an image is asked about cannot be told from faults of the program.
            return "refused" if status == 1 else "refused as an internal error"

    return run_one


CASES: dict[str, Case] = {"bytes": _case(damage_bytes), "configuration": _case(damage_json)}


def run(count: int = 200, seed: int = 0, first: int = 0) -> Report:
    """Damage `count` copies of the nano, and ask each a question."""
    return run_cases("damaged", CASES, count, seed, first)
