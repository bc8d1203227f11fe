"""`handler.py` of a pushed repo, as Hugging Face's Inference Endpoints run it: without LION, by its name."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from modeling_lion import LionImageToTextPipeline, save_lion
from tests.lion_multimodal.hub.conftest import bare_majors
from tests.lion_multimodal.hub.load_repo import OUR_PACKAGES
from tests.lion_multimodal.hub.test_self_contained import HIDE, clean_environment


# What huggingface_inference_toolkit.handler does with a repo that has a handler.py.
ENDPOINT = """
import base64, importlib.util, json, sys
repo, requests = sys.argv[1:]
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", f"{repo}/handler.py")
sys.path.insert(0, repo)
module = importlib.util.module_from_spec(spec)
sys.modules["handler.EndpointHandler"] = module
spec.loader.exec_module(module)
handler = module.EndpointHandler(repo)
answers = [handler(request) for request in json.load(open(requests))]
assert not set(sys.modules) & set(PACKAGES), "LION is installed here"
print("ANSWERS" + json.dumps(answers))
"""


@pytest.mark.parametrize("major", bare_majors())
def test_a_pushed_repo_answers_as_the_pipeline(hub, model, processor, tagger, image, tmp_path, major):
    save_lion(tmp_path / "saved", model, processor, tagger)
    assert main(["push", str(tmp_path / "saved"), "--repo-id", "lions/tiny"]) == 0
    repo = tmp_path / "repository"
    for name, content in hub.files("lions/tiny").items():
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_bytes(content)
    image.save(tmp_path / "image.png")
    coded = base64.b64encode((tmp_path / "image.png").read_bytes()).decode()
    few = {"max_new_tokens": 6}
    requests = [
        {"inputs": coded, "parameters": few},
        {"inputs": "data:image/png;base64," + coded, "parameters": {**few, "prompt": "what is it?", "tags": False}},
        {
            "inputs": [{"image": coded, "prompt": "locate the cat", "tags": "dog"}, {"image": coded}],
            "parameters": {**few, "num_beams": 2},
        },
        {"inputs": []},
    ]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    python = os.environ.get(f"LION_HUB_PYTHON_V{major}")
    hidden = f"PACKAGES = {OUR_PACKAGES!r}\n" + (HIDE if python is None else "")
    done = subprocess.run(
        [python or sys.executable, "-I", "-c", hidden + ENDPOINT, str(repo), str(tmp_path / "requests.json")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**clean_environment(), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.partition("ANSWERS")[2])
    pipe = LionImageToTextPipeline(model=model, processor=processor, tagger=tagger)
    assert answers == [
        pipe(image, **few),
        pipe(image, prompt="what is it?", tags=False, **few),
        pipe([{"image": image, "prompt": "locate the cat", "tags": "dog"}, image], num_beams=2, **few),
        [],
    ]


@pytest.fixture(scope="module")
def handler():
    """The shipped checkpoint's."""
    repo = checkpoints.path("nano")
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", repo / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(repo))


@pytest.fixture
def scene() -> Path:
    return Path(__file__).parents[3] / "docs/images/scene.png"


def test_images_come_in_many_forms(handler, scene):
    with Image.open(scene) as opened:
        images = [opened.copy(), scene.read_bytes(), base64.b64encode(scene.read_bytes()).decode()]
    question = {"prompt": "In the image <image>, can you locate the orange umbrella and let me know its coordinates?"}
    answers = [handler({"inputs": picture, "parameters": question}) for picture in images]
    assert answers == [answers[0]] * 3
    assert answers[0][0]["boxes"] == [[31.97, 28.99, 67.97, 62.02]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "it has no `inputs`"),
        ([], "it has no `inputs`"),
        ({"inputs": "/etc/passwd"}, "base64, or an http"),
        ({"inputs": "file:///etc/passwd"}, "base64, or an http"),
        ({"inputs": {"image": "docs/images/scene.png"}}, "base64, or an http"),
        ({"inputs": {"image": {"path": "docs/images/scene.png"}}}, "got dict"),
        ({"inputs": {"prompt": "What?"}}, "got NoneType"),
        ({"inputs": "http://localhost:1/a.png"}, "not a public address"),
        ({"inputs": "aGVsbG8h" * 40}, "no readable image"),
        ({"inputs": "SCENE", "parameters": {"custom_generate": "some/repo"}}, "got 'custom_generate'"),
        ({"inputs": "SCENE", "parameters": {"max_new_tokens": 100_000}}, "from 1 to 256"),
        ({"inputs": "SCENE", "parameters": {"num_beams": "many"}}, "from 1 to 16"),
        ({"inputs": "SCENE", "parameters": ["prompt"]}, "must be an object"),
        ({"inputs": "SCENE", "parameters": {"prompt": ["What?"] * 33}}, "at most 32 prompts"),
        ({"inputs": ["SCENE"] * 33}, "at most 32 images"),
        ({"inputs": {"image": "SCENE", "level": "pixel_level"}}, "level must be"),
    ],
)
def test_requests_that_are_none(handler, scene, data, message):
    text = json.dumps(data).replace("SCENE", base64.b64encode(scene.read_bytes()).decode())
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        handler(json.loads(text))
