"""A repo on the Hub, by its name: loaded at a revision, tagger included, and pushed to another."""

import json

import pytest

from modeling_lion import LionImageToTextPipeline, save_lion
from modeling_lion.hub_lion import LION_CODE
from tests.hub.conftest import bare_majors, make_tagger
from tests.hub.load_repo import QUESTIONS, observe
from tests.hub.loopback import LoopbackHub
from tests.hub.test_self_contained import assert_same, names


@pytest.mark.parametrize("major", bare_majors())
def test_load_a_revision_and_push(model, processor, tagger, image, load_elsewhere, tmp_path, major):
    expected = observe(
        model, processor, LionImageToTextPipeline(model=model, processor=processor, tagger=tagger), image
    )
    asked = LionImageToTextPipeline(model=model, processor=processor, tagger=False)(
        image, prompt=QUESTIONS[0], tags="dog, red ball", max_new_tokens=6
    )
    with LoopbackHub() as hub:
        save_lion(tmp_path / "first", model, processor, tagger)
        first = hub.commit_folder("lions/tiny", tmp_path / "first")
        # The next commit tags differently: what comes from it is not the first one's.
        save_lion(tmp_path / "second", model, processor, make_tagger([1.0, 0.0, 1.0]))
        hub.commit_folder("lions/tiny", tmp_path / "second")
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "any", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
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
