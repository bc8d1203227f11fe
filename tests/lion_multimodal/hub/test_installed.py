"""The installed package among transformers' Auto classes and PEFT's methods, each time in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_lion import save_lion


ROOT = Path(__file__).parents[3]


def run(code: str, *arguments) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::FutureWarning", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def repo(model, processor, tagger, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repos") / "installed"
    save_lion(folder, model, processor, tagger)
    return folder


LION_FIRST = """
import sys
import transformers
import modeling_lion

assert not {"trl", "datasets"} & set(sys.modules)

# The module `transformers` that was there first, and the one that transformers 5 puts in its place meanwhile.
assert transformers.AutoModelForVision2Seq is modeling_lion.AutoModelForVision2Seq
from transformers import AutoModelForVision2Seq
assert AutoModelForVision2Seq is modeling_lion.AutoModelForVision2Seq
import importlib, pickle
import transformers.processing_utils, transformers.pipelines
assert importlib.import_module("transformers").AutoModelForVision2Seq is AutoModelForVision2Seq
assert pickle.loads(pickle.dumps(AutoModelForVision2Seq)) is AutoModelForVision2Seq
assert not hasattr(importlib.import_module("transformers"), "AutoModelForVision3Seq")

# Without trust_remote_code.
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers import AutoProcessor
repo = sys.argv[1]
config = AutoConfig.from_pretrained(repo)
assert type(config).__module__ == "configuration_lion.configuration_lion"
processor = AutoProcessor.from_pretrained(repo)
assert type(processor).__module__ == "processing_lion.processing_lion"
assert type(AutoImageProcessor.from_pretrained(repo)).__module__ == "processing_lion.image_processing_lion"
for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoModelForVision2Seq):
    assert type(auto.from_pretrained(repo)) is modeling_lion.LionForConditionalGeneration, auto
assert type(AutoModelForImageTextToText.from_config(config)) is modeling_lion.LionForConditionalGeneration
assert type(AutoConfig.from_pretrained(repo, subfolder="tagger")).__name__ == "RamConfig"
assert type(AutoModel.from_pretrained(repo, subfolder="tagger")) is modeling_lion.RamForImageTagging
tagger = AutoImageProcessor.from_pretrained(repo, subfolder="tagger")
assert type(tagger).__module__ == "processing_lion.image_processing_lion" and tagger.size["height"] == 32

import modeling_lion.peft_lion
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
assert PEFT_TYPE_TO_CONFIG_MAPPING["LION_ADAPTER"] is modeling_lion.LionAdapterConfig

for name in modeling_lion.__all__:
    assert name in dir(modeling_lion) and getattr(modeling_lion, name) is not None
assert not hasattr(modeling_lion, "LionForSale")
"""

LION_LAST = """
import json, sys, time
import peft
import transformers
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

# What some of transformers 5 (5.17) have in its place without torchvision: it fails at every touch.
class Placeholder(type):
    def __getattribute__(cls, name):
        raise ImportError("AutoImageProcessor requires the Torchvision library")
transformers.AutoImageProcessor = Placeholder("AutoImageProcessor", (), {})

start = time.process_time()  # not the clock on the wall: other processes must not count
import modeling_lion
assert time.process_time() - start < 1.0

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
assert PEFT_TYPE_TO_CONFIG_MAPPING["LION_ADAPTER"] is modeling_lion.LionAdapterConfig
assert type(AutoModelForImageTextToText.from_pretrained(sys.argv[1])) is modeling_lion.LionForConditionalGeneration
assert type(AutoProcessor.from_pretrained(sys.argv[1])).__module__ == "processing_lion.processing_lion"
from transformers import AutoConfig, AutoModelForVision2Seq
assert AutoModelForVision2Seq is modeling_lion.AutoModelForVision2Seq

# A stranger's repo that gives its class under the old name alone.
from pathlib import Path
folder = Path(sys.argv[2])
(folder / "config.json").write_text(json.dumps({
    "model_type": "old_one",
    "auto_map": {"AutoConfig": "old.OldConfig", "AutoModelForVision2Seq": "old.OldModel"},
}))
(folder / "old.py").write_text('''
import torch
from transformers import PretrainedConfig, PreTrainedModel
class OldConfig(PretrainedConfig):
    model_type = "old_one"
class OldModel(PreTrainedModel):
    config_class = OldConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()
''')
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
assert type(AutoModelForVision2Seq.from_config(config, trust_remote_code=True)).__name__ == "OldModel"
"""


# Two processes for many facts: each costs the seconds that torch and transformers take to import.
@pytest.mark.parametrize("code", [LION_FIRST, LION_LAST], ids=["imported first", "imported last"])
def test_transformers_and_peft_know_lion(code, repo, tmp_path):
    pytest.importorskip("peft")
    run(code, repo, tmp_path)
