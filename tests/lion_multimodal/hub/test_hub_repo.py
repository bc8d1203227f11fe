"""A repo on the Hub, by its name: pushed, loaded elsewhere at a revision, tagger included, and pushed to another."""

import json

import pytest

from lion_multimodal.cli.main import main
from modeling_lion import LionImageToTextPipeline, save_lion
from processing_lion.remote_code_lion import LION_CODE
from tests.lion_multimodal.hub.conftest import TOKEN, bare_majors, make_tagger
from tests.lion_multimodal.hub.load_repo import QUESTIONS, observe
from tests.lion_multimodal.hub.test_self_contained import assert_same, names
from trainers.publishing import push_lion


@pytest.mark.parametrize("major", bare_majors())
def test_push_then_load_a_revision_and_push_on(hub, model, processor, tagger, image, load_elsewhere, tmp_path, major):
    expected = observe(
        model, processor, LionImageToTextPipeline(model=model, processor=processor, tagger=tagger), image
    )
    asked = LionImageToTextPipeline(model=model, processor=processor, tagger=False)(
        image, prompt=QUESTIONS[0], tags="dog, red ball", max_new_tokens=6
    )
    save_lion(tmp_path / "first", model, processor, tagger)
    assert main(["push", str(tmp_path / "first"), "--repo-id", "lions/tiny"]) == 0
    first = hub.repos["lions/tiny"].branches["main"]
    # The next commit tags differently: what comes from it is not the first one's.
    push_lion("lions/tiny", model, processor, make_tagger([1.0, 0.0, 1.0]))
    assert len(hub.log("lions/tiny")) == 3
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    findings = load_elsewhere(
        major,
        repo="lions/tiny",
        revision=first,
        environment=environment,
        push_to="lions/copy",
        scratch=tmp_path / "scratch",
    )
    assert_same(findings, expected)
    assert findings["pushed"] == asked

    pushed = hub.files("lions/copy")
    assert names(LION_CODE) <= set(pushed)
    assert {"model.safetensors", "processor_config.json", "tokenizer.json", "qformer_tokenizer/tokenizer.json"} <= set(
        pushed
    )
    for file in ("config.json", "processor_config.json", "preprocessor_config.json"):
        assert "--" not in json.dumps(json.loads(pushed.get(file, b"{}"))), f"{file} refers to another repo's code"
