"""
`lion push` when something goes wrong, with each request that it makes: it is repeated, or one line says what is wrong.
The main branch is the old one or the new one, and nothing between them.
"""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import trainers.publishing.hub
from lion_multimodal.cli.main import main
from tests.lion_multimodal.hub.conftest import TOKEN
from tests.lion_multimodal.hub.loopback import LoopbackHub


REPO = "lions/tiny"
# All requests of a first push, in their order.
REQUESTS = {
    "create": "POST api/repos/create",
    "info": f"GET api/models/{REPO}/revision/main",
    "tree": f"GET api/models/{REPO}/tree/",
    "yaml": "POST api/validate-yaml",
    "preupload": f"POST api/models/{REPO}/preupload/main",
    "batch": f"POST {REPO}.git/info/lfs/objects/batch",
    "upload": "PUT large/",
    "verify": "POST verify/",
    "commit": f"POST api/models/{REPO}/commit/main",
}
# With a branch, and with a card that is there already.
MORE_REQUESTS = {
    "branch": f"POST api/models/{REPO}/branch/next",
    "read": f"(GET|HEAD) {REPO}/resolve/",
}
# What can happen to a request: the Hub refuses it, closes the connection at once or in the middle of what is sent, or
# does what it is asked to and the answer gets lost.
FAULTS = {
    "internal error": {"status": 500},
    "unavailable": {"status": 503},
    "too many requests": {"status": 429},
    "cut off": {"status": None},
    "cut off midway": {"status": None, "after": 100},
    "done, but an error": {"status": 500, "applied": True},
    "done, but cut off": {"status": None, "applied": True},
}


@pytest.fixture
def directory(tmp_path):
    """The smallest adapter: 2 KB of weights."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_weights(folder, 1.0)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LION_ADAPTER", "adapters": ["image_level"]}))
    return folder


def write_weights(folder, value: float) -> None:
    save_file({"weight": np.full((16, 32), value, np.float32)}, folder / "adapter_model.safetensors")


def push(directory, *options: str) -> int:
    return main(["push", str(directory), "--repo-id", REPO, *options])


def weights(hub: LoopbackHub, revision: str = "main") -> bytes | None:
    return hub.files(REPO, revision).get("adapter_model.safetensors")


def the_line(capsys) -> str:
    """The one line that stands on stderr, without what the client itself shows there of its progress."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lion: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_the_requests_are_these(hub, directory):
    """Where the client makes others one day, this test says that the ones below leave some out."""
    assert push(directory) == 0
    missed = [request for request in hub.requests if not any(re.match(known, request) for known in REQUESTS.values())]
    assert not missed
    assert all(any(re.match(known, request) for request in hub.requests) for known in REQUESTS.values())
    assert hub.log(REPO) == ["initial commit", "Push the adapter"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_request_that_fails_once_is_repeated(hub, directory, request_name, fault):
    planned = hub.fail(REQUESTS[request_name], **FAULTS[fault])
    assert push(directory) == 0
    assert planned.seen == 1
    assert hub.log(REPO) == ["initial commit", "Push the adapter"], "one commit, whatever was repeated"
    assert weights(hub) == (directory / "adapter_model.safetensors").read_bytes()
    assert {"README.md", "adapter_config.json"} <= set(hub.files(REPO))


def test_an_upload_is_cut_off_in_the_middle_of_many_megabytes(hub, directory):
    weights_file = directory / "adapter_model.safetensors"
    save_file({"weight": np.arange(4 << 20, dtype=np.float32)}, weights_file)
    planned = hub.fail(REQUESTS["upload"], None, after=5_000_000, times=2)
    assert push(directory) == 0
    assert planned.seen == 2
    assert hub.uploads == [weights_file.stat().st_size]
    assert weights(hub) == weights_file.read_bytes()
    assert hub.log(REPO) == ["initial commit", "Push the adapter"]


@pytest.mark.parametrize("request_name", MORE_REQUESTS)
def test_so_are_those_of_a_second_push(hub, directory, request_name):
    assert push(directory) == 0
    write_weights(directory, 2.0)
    planned = hub.fail(MORE_REQUESTS[request_name], 503)
    options = ("--revision", "next") if request_name == "branch" else ()
    assert push(directory, *options) == 0
    assert planned.seen == 1
    assert weights(hub, "next" if options else "main") == (directory / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("fault", ["internal error", "cut off midway"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_request_that_always_fails_leaves_the_old_version(hub, directory, capsys, request_name, fault):
    assert push(directory) == 0
    before = dict(hub.files(REPO))
    write_weights(directory, 2.0)
    capsys.readouterr()
    hub.fail(REQUESTS[request_name], times=None, **FAULTS[fault])
    new = ("--base-model", "lions/base")  # which changes the card, too
    assert push(directory, *new) == 1
    line = the_line(capsys)
    assert line.startswith(f"lion: error: {hub.url} did not ")
    assert ("no connection" if fault == "cut off midway" else "500") in line
    assert TOKEN not in line
    assert hub.files(REPO) == before
    assert hub.log(REPO) == ["initial commit", "Push the adapter"]
    # And once it is over, the same command finishes what it began.
    hub.forget()
    assert push(directory, *new) == 0
    assert weights(hub) == (directory / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(("seconds", "status"), [(0, 0), (1000, 1)])
def test_a_long_upload_does_not_use_up_the_patience(hub, directory, monkeypatch, seconds, status):
    """It is counted from the first failure on."""
    clock = [0.0]
    monkeypatch.setattr(
        trainers.publishing.hub, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda seconds: None)
    )
    hub.fail(REQUESTS["upload"], action=lambda: clock.insert(0, 3600.0))
    hub.fail(REQUESTS["commit"], 500)
    hub.fail("GET", action=lambda: clock.insert(0, clock[0] + seconds), times=None)
    hub.fail(REQUESTS["commit"], 500)
    assert push(directory) == status
    assert hub.log(REPO) == ["initial commit", "Push the adapter"][: 2 - status]


def test_the_commit_is_made_and_no_answer_ever_comes(hub, directory, capsys):
    """Every answer to the commit gets lost: the repo is asked for it."""
    hub.fail(REQUESTS["commit"], status=None, applied=True, times=None)
    assert push(directory) == 0
    assert hub.log(REPO) == ["initial commit", "Push the adapter"]
    assert capsys.readouterr().out.startswith(f"pushed    {hub.url}/{REPO}/commit/{hub.repos[REPO].branches['main']}")


@pytest.mark.parametrize("others", [{"adapter_model.safetensors": b"theirs"}, {"notes.md": b"theirs"}])
def test_somebody_else_pushes_at_the_same_time(hub, directory, capsys, others):
    assert push(directory) == 0
    write_weights(directory, 2.0)
    capsys.readouterr()
    repo = hub.repos[REPO]
    before = dict(hub.files(REPO))
    hub.fail(REQUESTS["commit"], action=lambda: repo.commit("main", "theirs", {**before, **others}))
    assert push(directory) == 1
    assert "got another commit meanwhile" in the_line(capsys)
    assert hub.files(REPO) == {**before, **others}


@pytest.mark.parametrize(
    ("token", "status", "advice"),
    [("hf_" + "b" * 34, 401, "hf auth login"), ("hf_" + "c" * 34, 403, "may not write")],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_token_is_refused(hub, directory, capsys, token, status, advice, there):
    hub.tokens["hf_" + "c" * 34] = "read"
    if there:
        hub.create(REPO)
    assert push(directory, "--token", token) == 1
    line = the_line(capsys)
    assert str(status) in line
    assert advice in line
    assert token not in line
    assert len(hub.requests) <= 6, "what is refused is not asked for again and again"
    assert not there or hub.log(REPO) == ["initial commit"]


def test_a_token_is_refused_only_for_the_commit(hub, directory, capsys):
    hub.fail(REQUESTS["commit"], 403, times=None)
    assert push(directory) == 1
    assert "(403" in the_line(capsys)
    assert sum(request.startswith("POST") and "/commit/" in request for request in hub.requests) == 1
    assert hub.log(REPO) == ["initial commit"]


@pytest.mark.parametrize(
    "name", ["a/b/c", "lions/-tiny", "lions/ti--ny", "lions/ti ny", "lions/tiny.git", "", "x" * 97]
)
def test_a_name_that_no_repo_can_have(hub, directory, capsys, name):
    assert main(["push", str(directory), "--repo-id", name]) == 1
    assert "can't be the NAME or OWNER/NAME of a repo on the Hub" in the_line(capsys)
    assert not hub.requests


def test_no_hub_at_all(hub, directory, capsys, monkeypatch):
    hub.server.shutdown()
    hub.server.server_close()
    assert push(directory) == 1
    assert "no connection" in the_line(capsys)


def test_offline(hub, directory, capsys, monkeypatch):
    import huggingface_hub

    from tests.lion_multimodal.hub.conftest import reset_client

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    reset_client()
    assert push(directory) == 1
    assert "HF_HUB_OFFLINE" in the_line(capsys)
    assert not hub.requests
