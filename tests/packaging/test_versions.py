"""The bounds in `pyproject.toml` are those of the environments that the tests run in."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTED_EXTRAS = ("train", "evaluation", "quantization")


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9-]+==[0-9.]+", line) for line in pinned), pinned
    return {line.partition("==")[0].lower(): Version(line.partition("==")[2]) for line in pinned}


def requirements() -> dict[str, Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in TESTED_EXTRAS:
        lines += PROJECT["optional-dependencies"][extra]
    return {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}


def bound(requirement: Requirement, operator: str) -> Version | None:
    found = [Version(part.version) for part in requirement.specifier if part.operator == operator]
    return found[0] if found else None


def test_lower_bounds_are_the_lowest_that_is_tested():
    lowest = pins("lowest")
    for name, requirement in requirements().items():
        if name in lowest and name != "torch":  # of which see constraints/lowest.txt
            assert bound(requirement, ">=") == lowest[name], name


def test_upper_bounds_are_the_next_major_release():
    newest = pins("newest")
    for name, requirement in requirements().items():
        if name in newest:
            assert bound(requirement, "<") == Version(str(newest[name].major + 1)), name


@pytest.mark.parametrize("name", ["lowest", "transformers-4.57", "transformers-5.0", "newest"])
def test_what_is_tested_is_supported(name):
    for package, requirement in requirements().items():
        if (version := pins(name).get(package)) is not None:
            assert version in requirement.specifier, package
