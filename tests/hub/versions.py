"""Print what a machine has that only loads checkpoints from the Hub: torch, Pillow and one pinned transformers."""

import sys
import tomllib
from pathlib import Path


def requirements(extra: str) -> list[str]:
    """The pinned versions of `extra` in pyproject.toml, without what only training needs."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    pinned = project["optional-dependencies"][extra]
    return [requirement for requirement in pinned if not requirement.startswith(("peft", "trl"))] + ["Pillow"]


if __name__ == "__main__":
    sys.stdout.write(" ".join(requirements(sys.argv[1])) + "\n")
