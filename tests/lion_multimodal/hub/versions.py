"""Print the versions of an extra: for machines that only load checkpoints from the Hub, with torch and transformers."""

import sys
import tomllib
from pathlib import Path


def requirements(extra: str) -> list[str]:
    """The versions of `extra` in pyproject.toml, without what only training needs."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    pinned = project["optional-dependencies"][extra]
    return [requirement for requirement in pinned if not requirement.startswith(("peft", "trl"))]


if __name__ == "__main__":
    sys.stdout.write(" ".join(requirements(sys.argv[1])) + "\n")
