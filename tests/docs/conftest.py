"""A working directory with what a reader of the documents has, and a Hub with the names that they use."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from lion_multimodal import checkpoints
from tests.docs.documents import ROOT
from tests.lion_multimodal.hub.conftest import hub  # noqa: F401
from tests.lion_multimodal.serving.conftest import serving
from tests.official_files import write_official, write_official_ram


RECIPE = """
output_dir: runs/small
model: {model}
adapters: {{bottleneck_size: 2}}
training: {{per_device_train_batch_size: 2, use_cpu: true, plots: false, predict_with_generate: false, max_steps: 1}}
stages:
  stage1: {{data: [{{path: rows.jsonl}}]}}
  stage2: {{data: [{{path: rows.jsonl}}]}}
  stage3: {{training: {{max_steps: 1}}}}
"""


@pytest.fixture(scope="session")
def nano() -> Path:
    return checkpoints.path("nano")


@pytest.fixture(scope="session")
def base(nano, tmp_path_factory) -> Path:
    """The nano without its adapters."""
    from modeling_lion import LionForConditionalGeneration, save_lion
    from processing_lion import LionProcessor

    folder = tmp_path_factory.mktemp("base")
    model = LionForConditionalGeneration.from_pretrained(nano, adapter_config={"adapters": []})
    save_lion(folder, model, LionProcessor.from_pretrained(nano))
    return folder


@pytest.fixture(scope="session")
def stage_adapter(base, tmp_path_factory) -> Path:
    from peft import get_peft_model

    from modeling_lion import LionForConditionalGeneration
    from trainers.stages import get_stage

    folder = tmp_path_factory.mktemp("stage1")
    model = LionForConditionalGeneration.from_pretrained(base)
    get_peft_model(model, get_stage("stage1").peft_config(bottleneck_size=2)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def benchmark_data(tmp_path_factory) -> Path:
    """Two questions of each benchmark."""
    from laboratory.counterparts.synthetic import main

    folder = tmp_path_factory.mktemp("benchmarks")
    main([str(folder), "--rows", "2"])
    return folder


@pytest.fixture(scope="session")
def evaluated(nano, benchmark_data, tmp_path_factory) -> Path:
    """An output folder of `lion eval`."""
    from lion_multimodal.cli.main import main

    folder = tmp_path_factory.mktemp("evaluated")
    arguments = ["--limit", "1", "--data-dir", str(benchmark_data), "--output", str(folder), "--device", "cpu"]
    assert main(["eval", "--model", str(nano), "--benchmark", "pope", *arguments]) == 0
    return folder


@pytest.fixture
def workplace(nano, base, stage_adapter, evaluated, tmp_path, monkeypatch) -> Path:
    """A reader's working directory: a checkout, images, rows, a recipe, training's outputs, the authors' files."""
    folder = tmp_path / "workplace"
    folder.mkdir()
    for name in ("docs", "laboratory", "lion_multimodal", "trainers", "tests", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    scene = Image.open(ROOT / "docs/images/scene.png").convert("RGB")
    (folder / "photos").mkdir()
    for name in ("street.jpg", "photo.jpg", "picture.png", "image.png", "photos/a.jpg", "photos/b.png"):
        scene.save(folder / name)
    row = {"image": str(folder / "picture.png"), "prompt": "Question: what is it? Short answer:", "completion": "red"}
    (folder / "rows.jsonl").write_text((json.dumps(row) + "\n") * 2)
    (folder / "recipe.yaml").write_text(RECIPE.format(model=base))
    shutil.copytree(nano, folder / "out/final")
    shutil.copytree(stage_adapter, folder / "out/stage1")
    for name in ("report", "out/evaluation"):
        shutil.copytree(evaluated, folder / name)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets, "disable_progress_bars", lambda: None)
    return folder


@pytest.fixture
def official(workplace) -> Path:
    """The authors' files under the names that the documents give them."""
    files = write_official(workplace / "official")
    for source, name in (
        (files.checkpoint, "LION-FlanT5-XL.pth"),
        (files.vision, "eva_vit_g.pth"),
        (files.text_model, "flan-t5-xl"),
        (files.qformer_tokenizer, "bert-base-uncased"),
        (files.config, "lion_config.json"),
        (write_official_ram(workplace / "official_ram"), "ram_swin_large_14m.pth"),
        (workplace / "official_ram/ram", "ram"),
    ):
        (workplace / name).symlink_to(source)
    return workplace


@pytest.fixture
def names_on_the_hub(hub, nano, base, stage_adapter):  # noqa: F811
    """The stand-ins: what the documents' names on the Hub are."""
    for name in ("you/your-lion", "you/LION-FlanT5-XL"):
        hub.commit_folder(name, nano)
    hub.commit_folder("you/your-base", base)
    hub.commit_folder("you/your-lion-stage1", stage_adapter)
    return hub


@pytest.fixture
def served(monkeypatch):
    """`lion serve` as the documents start it, but for the port."""
    from lion_multimodal.engine import LionEngine

    with serving(LionEngine.from_pretrained(device="cpu")) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{running.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield running


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
