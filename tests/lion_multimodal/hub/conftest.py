import json
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer

from configuration_lion import RamConfig
from modeling_lion import LionTagger, RamForImageTagging
from processing_lion import LionImageProcessor, LionProcessor, add_qformer_bos_token
from tests.golden import FIXTURES, load_golden_model
from tests.lion_multimodal.hub.loopback import LoopbackHub


TOKEN = "hf_" + "a" * 34
THIS_MAJOR = int(transformers.__version__.split(".")[0])


@pytest.fixture(scope="session")
def image() -> Image.Image:
    return Image.radial_gradient("L").resize((80, 60)).convert("RGB")


@pytest.fixture(scope="session")
def model():
    return load_golden_model("all")


@pytest.fixture(scope="session")
def processor(model) -> LionProcessor:
    return LionProcessor(
        LionImageProcessor(size=model.config.vision_config.image_size),
        AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "t5"),
        add_qformer_bos_token(AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "bert")),
    )


def make_tagger(thresholds: list[float]) -> LionTagger:
    """A tiny tagger whose thresholds of 0 and 1 decide which tags it gives."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "projection_dim": 12}
    tags = ["dog", "cat", "red ball"]
    config = RamConfig.from_preset("nano", vision_config=vision, tags=tags, thresholds=thresholds, **sizes)
    return LionTagger(RamForImageTagging(config), LionImageProcessor.for_tagging(size=32))


@pytest.fixture(scope="session")
def tagger() -> LionTagger:
    return make_tagger([0.0, 1.0, 0.0])


def bare_majors() -> list[int]:
    """The majors of transformers for which there is an environment, this one's own last."""
    named = [major for major in (4, 5) if f"LION_HUB_PYTHON_V{major}" in os.environ]
    return sorted({*named, THIS_MAJOR}, key=lambda major: major == THIS_MAJOR)


@pytest.fixture
def load_elsewhere(tmp_path, image):
    """
    Runs `load_repo.py` where LION is not installed: in the environment whose interpreter `LION_HUB_PYTHON_V4` or
    `LION_HUB_PYTHON_V5` names, else in this one with everything hidden that a bare one lacks.
    """
    image.save(tmp_path / "image.png")

    def load(major: int, **job) -> dict:
        python = os.environ.get(f"LION_HUB_PYTHON_V{major}")
        run = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        run.mkdir()
        job |= {"image": str(tmp_path / "image.png"), "findings": str(run / "findings.json"), "hide": python is None}
        (run / "job.json").write_text(json.dumps(job, default=str))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_", "LION_"))
        }
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(run / "home"), **job.get("environment", {})}
        done = subprocess.run(
            [python or sys.executable, "-I", str(Path(__file__).with_name("load_repo.py")), str(run / "job.json")],
            capture_output=True,
            text=True,
            env=environment,
            cwd=run,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        findings = json.loads((run / "findings.json").read_text())
        assert int(findings["transformers"].split(".")[0]) == major
        assert findings["code"] == []
        return {**findings, "stderr": done.stderr}

    return load


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A loopback Hub that this process's own client talks to, logged in, and without waiting before it tries again."""
    with LoopbackHub({TOKEN: "write"}) as hub:
        settings = {
            "ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        }
        for name, value in settings.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        # Copies that were made when the libraries were imported.
        monkeypatch.setattr(
            huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", settings["HUGGINGFACE_CO_URL_TEMPLATE"], False
        )
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr(transformers.utils.hub, "_is_offline_mode", False, raising=False)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        reset_client()
        yield hub
    reset_client()


def reset_client() -> None:
    """Let the client of either major version begin anew, with the settings there are now."""
    module = huggingface_hub.utils._http
    (module.reset_sessions if hasattr(module, "reset_sessions") else module.close_session)()
