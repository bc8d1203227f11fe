"""`lion eval` of a checkpoint on the Hub notes which commit it was."""

import transformers

from lion_multimodal import checkpoints
from lion_multimodal.evaluation.answering import Answerer, find_commit


NANO = checkpoints.path("nano")


def test_all_parts_are_of_one_commit(hub, monkeypatch, tmp_path):
    # transformers 4 keeps a copy of the setting.
    monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(tmp_path / "hub-cache"), raising=False)
    first = hub.commit_folder("you/your-lion", NANO)
    second = hub.commit_folder("you/your-lion", NANO)
    assert first != second
    assert find_commit("you/your-lion", first) == first
    assert find_commit(NANO) is None
    hub.requests.clear()
    answerer = Answerer.from_pretrained("you/your-lion", device="cpu")
    assert answerer.revision == second
    assert answerer.tagger is not None
    files = [request for request in hub.requests if request.endswith((".safetensors", "tokenizer.json"))]
    assert len(files) >= 3
    assert not [request for request in files if "/main/" in request]
    assert Answerer.from_pretrained("you/your-lion", revision=first, tags="none", device="cpu").revision == first
