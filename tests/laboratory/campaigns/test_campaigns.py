"""A short slice of every campaign, the same each time, and that a campaign notices faults."""

import json
import random

import pytest

from laboratory.campaigns import damaged, fuzz, kill, threads
from laboratory.campaigns.__main__ import main
from laboratory.campaigns.campaign import attempt, run_cases


@pytest.mark.parametrize("kind", fuzz.CASES)
def test_random_input_is_used_or_refused(kind):
    report = run_cases("fuzz", {kind: fuzz.CASES[kind]}, 60, seed=1)
    assert report.findings == []
    assert report.cases == 60


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(206, id="a prompt shorter than the head that may hold the soft prompt"),
        pytest.param(1856, id="a long name of a kind of tensors"),
        pytest.param(8804, id="a long way to truncate"),
        pytest.param(24442, id="long names of branches"),
        pytest.param(26512, id="a thousand million tags"),
    ],
)
def test_what_a_full_run_found(case):
    assert fuzz.run(1, seed=0, first=case).findings == []


def test_damaged_checkpoints_are_refused_by_a_line():
    report = damaged.run(6, seed=0)
    assert report.findings == []
    assert report.outcomes.get("refused", 0) > 0


@pytest.mark.parametrize("command", ["tag --output", "predict --draw", "train", "data prepare"])
def test_a_killed_command_ends_as_if_nothing_had_been(command):
    report = run_cases("kill", {command: kill.CASES[command]}, 2, seed=1)
    assert report.findings == []


def test_threads_get_what_they_get_alone():
    assert threads.run(3, seed=0).outcomes == {"equal": 3}


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("x"), ValueError("")])
def test_faults_are_noticed(error):
    def fail(draw: random.Random) -> str:
        def function():
            raise error

        return attempt(function)

    report = run_cases("faulty", {"fail": fail}, 3, seed=0)
    assert len(report.findings) == 3
    assert report.outcomes == {"finding": 3}


def test_the_same_seed_gives_the_same_cases():
    def say(draw: random.Random) -> str:
        return str(draw.random())

    first, again = (run_cases("same", {"say": say}, 5, seed=3) for _ in range(2))
    assert first.outcomes == again.outcomes
    assert run_cases("same", {"say": say}, 1, seed=3, first=4).outcomes.items() <= first.outcomes.items()
    assert run_cases("same", {"say": say}, 5, seed=4).outcomes != first.outcomes


def test_command(tmp_path, capsys):
    assert main(["fuzz", "--count", "6", "--output", str(tmp_path / "report.json")]) in (0, 1)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["cases"] == 6
    assert "fuzz: 6 cases by seed 0" in capsys.readouterr().out
