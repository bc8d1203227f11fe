"""`push_to_hub` of model, processor, adapter and trainer: what arrives at the Hub, and that it tells of no machine."""

import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from lion_multimodal.cli.main import main
from modeling_lion import LionForConditionalGeneration, RamForImageTagging
from processing_lion import LionProcessor
from processing_lion.remote_code_lion import LION_CODE, PROCESSOR_CODE
from tests.lion_multimodal.hub.conftest import TOKEN
from tests.lion_multimodal.hub.loopback import LoopbackHub
from tests.lion_multimodal.hub.test_self_contained import names
from trainers.publishing import HubError, Machine, push_lion


pytest.importorskip("trl")

from peft import PeftModel, get_peft_model  # noqa: E402

from tests.trainers.conftest import make_rows, tiny_model  # noqa: E402
from trainers import LionSFTConfig, LionSFTTrainer  # noqa: E402
from trainers.pushing import push_copy  # noqa: E402
from trainers.stages import get_stage  # noqa: E402


ROOT = Path(__file__).parents[3]
REPO = "lions/tiny"
# What a repo may hold; `.gitattributes` is the Hub's own.
KINDS = {".jinja", ".json", ".md", ".model", ".py", ".safetensors", ".txt", ".gitattributes"}


@pytest.fixture
def place(tmp_path) -> Path:
    """A local directory whose name nobody is to know."""
    return tmp_path / "secret-place"


@pytest.fixture
def base(place, processor) -> Path:
    """A LION without adapters, in such a directory."""
    tiny_model().save_pretrained(place / "base")
    processor.save_pretrained(place / "base")
    return place / "base"


def assert_nothing_tells(hub: LoopbackHub, place: Path, repo: str = REPO) -> None:
    """In no commit of any branch."""
    machine = Machine([place])
    for commit in hub.repos[repo].commits.values():
        for file, content in commit.files.items():
            assert Path(file).suffix in KINDS or Path(file).name in KINDS, file
            assert b"secret-place" not in content, file
            assert os.uname().nodename.encode() not in content or len(os.uname().nodename) < 4, file
            if not file.endswith(".safetensors"):
                assert machine.find(file, content) == [], file


def test_model_and_processor(hub, model, processor, place):
    """Two commits: between them the repo has no processor. `push_lion` makes one."""
    model.save_pretrained(place)
    processor.save_pretrained(place)
    LionForConditionalGeneration.from_pretrained(place).push_to_hub(REPO)
    LionProcessor.from_pretrained(place).push_to_hub(REPO)
    assert len(hub.log(REPO)) == 3
    files = hub.files(REPO)
    assert names(LION_CODE) <= set(files)
    saved = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    assert load(files["model.safetensors"]).keys() == load(saved["model.safetensors"]).keys()
    assert files["qformer_tokenizer/tokenizer.json"] == (place / "qformer_tokenizer" / "tokenizer.json").read_bytes()
    assert_nothing_tells(hub, place)

    hub.forget()
    LionForConditionalGeneration.from_pretrained(place).push_to_hub(REPO)
    assert hub.uploads == [], "weights that are there already"


def test_tagger_and_image_processor(hub, tagger, place):
    tagger.model.save_pretrained(place)
    RamForImageTagging.from_pretrained(place).push_to_hub("lions/tagger")
    tagger.image_processor.push_to_hub("lions/tagger")
    assert {"config.json", "model.safetensors", "modeling_ram.py", "preprocessor_config.json"} <= set(
        hub.files("lions/tagger")
    )
    assert_nothing_tells(hub, place, "lions/tagger")


def test_processor_alone(hub, processor):
    processor.push_to_hub("lions/processor", private=True)
    assert names(PROCESSOR_CODE) <= set(hub.files("lions/processor"))
    assert hub.repos["lions/processor"].private


def test_push_lion_makes_one_commit(hub, model, processor, tagger, place):
    push = push_lion(REPO, model, processor, tagger, message="All of it")
    assert hub.log(REPO) == ["initial commit", "All of it"]
    assert push.changed
    assert push.url == f"{hub.url}/{REPO}/commit/{push.commit}"
    assert {"model.safetensors", "tokenizer.json", "tagger/model.safetensors", "README.md"} <= set(push.files)
    assert not push_lion(REPO, model, processor, tagger).changed
    assert_nothing_tells(hub, place)


ADAPTER_BY_NAME = """
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(LionForConditionalGeneration.from_pretrained(base), adapter)
print(json.dumps(answer(model, LionProcessor.from_pretrained(base)).tolist()))
"""


IMPORTS = """
import json, sys
import numpy as np
import torch
from peft import PeftModel
from modeling_lion import LionForConditionalGeneration
from processing_lion import LionProcessor

"""


@torch.no_grad()
def answer(model, processor) -> torch.Tensor:
    """Logits (1, 3, vocabulary) about an image."""
    image = np.arange(30 * 40 * 3).astype(np.uint8).reshape(30, 40, 3)
    inputs = processor(images=[image], text=["what is it?"], tags=["dog"])
    return model.eval()(**inputs, labels=torch.tensor([[5, 6, 1]])).logits


def test_adapter(hub, base, place, processor, tmp_path):
    """Base and adapter, loaded by their names in another process, give what they give here."""
    push_lion("lions/base", tiny_model(), processor)
    model = get_peft_model(LionForConditionalGeneration.from_pretrained(base), get_stage("stage1").peft_config())
    without = answer(model, processor)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.push_to_hub("lions/stage1")
    assert len(hub.log("lions/stage1")) == 2
    assert json.loads(hub.files("lions/stage1")["adapter_config.json"])["base_model_name_or_path"] is None
    assert_nothing_tells(hub, place, "lions/stage1")
    assert model.peft_config["default"].base_model_name_or_path == str(base), "the model itself still knows"

    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + inspect.getsource(answer) + ADAPTER_BY_NAME, "lions/base", "lions/stage1"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    elsewhere = torch.tensor(json.loads(done.stdout))
    torch.testing.assert_close(elsewhere, answer(model, processor), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(elsewhere, without, atol=1e-2)


def make_trainer(base: Path, place: Path, processor, stage_by_peft: bool = True, **fields) -> LionSFTTrainer:
    config = LionSFTConfig(
        output_dir=str(place / "run"),
        hub_model_id=REPO,
        use_cpu=True,
        max_steps=2,
        save_steps=1,
        logging_steps=1,
        per_device_train_batch_size=2,
        report_to="tensorboard",
        disable_tqdm=True,
        stage=None if stage_by_peft else "stage1",
        **fields,
    )
    model = LionForConditionalGeneration.from_pretrained(base) if stage_by_peft else tiny_model(["image_level"])
    return LionSFTTrainer(
        model,
        config,
        train_dataset=make_rows(4),
        processing_class=processor,
        peft_config=get_stage("stage1").peft_config(bottleneck_size=4) if stage_by_peft else None,
    )


def assert_nothing_pickled_but_states(directory: Path) -> None:
    """Of what training writes, only what resuming needs is in PyTorch's own format."""
    found = {path.name for path in directory.rglob("*") if path.suffix in (".bin", ".pkl", ".pt", ".pth")}
    assert found <= {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


def test_trainer_of_an_adapter(hub, base, place, processor):
    """`push_to_hub=True`: every save is pushed while training goes on, and what `push_to_hub` of the trainer pushes."""
    trainer = make_trainer(base, place, processor, push_to_hub=True, hub_always_push=True, hub_private_repo=True)
    trainer.train()
    titles = ["initial commit", "Training in progress, step 1", "Training in progress, step 2"]
    assert hub.log(REPO) == titles
    for commit in hub.repos[REPO].commits.values():
        assert commit.title == "initial commit" or {"adapter_config.json", "adapter_model.safetensors"} <= set(
            commit.files
        )
    trainer.push_to_hub(dataset_name="lions/pictures", tags="nano")
    assert hub.repos[REPO].private
    files = hub.files(REPO)
    trained = PeftModel.from_pretrained(LionForConditionalGeneration.from_pretrained(base), place / "run").state_dict()
    assert hub.log(REPO)[:3] == titles
    for name, value in load(files["adapter_model.safetensors"]).items():
        key = next(key for key in trained if key.replace(".default", "") == name)
        torch.testing.assert_close(trained[key], value, rtol=0, atol=0)
    card = files["README.md"].decode()
    for text in ("library_name: peft", "- trl", "- nano", "- lions/pictures", "PeftModel.from_pretrained"):
        assert text in card
    assert not {"training_args.json", "training_args.bin", "trainer_state.json", "loss.png"} & set(files)
    assert "tokenizer_config.json" in files
    assert_nothing_tells(hub, place)
    assert_nothing_pickled_but_states(place)
    assert not list((place / "run").glob(".push-*"))

    # The same directory, as `lion train` leaves it, by hand.
    trainer.save_state()
    trainer.plot()
    assert main(["push", str(place / "run"), "--repo-id", "lions/by-hand", "--base-model", "lions/base"]) == 0
    by_hand = hub.files("lions/by-hand")
    assert set(by_hand) == {*files, "loss.png"}
    assert by_hand["adapter_model.safetensors"] == files["adapter_model.safetensors"]
    assert b"secret-place" not in b"".join(by_hand.values())
    assert 'from_pretrained("lions/base")' in by_hand["README.md"].decode()


def test_trainer_of_a_plain_model(hub, base, place, processor):
    trainer = make_trainer(base, place, processor, stage_by_peft=False, save_strategy="no")
    trainer.train()
    push = trainer.push_to_hub(blocking=False).result()
    assert push.changed
    assert hub.log(REPO) == ["initial commit", "End of training"]
    assert names(LION_CODE) <= set(hub.files(REPO))
    assert {"model.safetensors", "tokenizer_config.json", "qformer_tokenizer/tokenizer.json"} <= set(hub.files(REPO))
    assert_nothing_tells(hub, place)
    assert_nothing_pickled_but_states(place)


def test_training_goes_on_when_the_hub_is_down(hub, base, place, processor, caplog):
    trainer = make_trainer(base, place, processor, push_to_hub=True, hub_always_push=True)
    hub.fail(r"POST .*/commit/", times=None)
    with caplog.at_level(logging.WARNING):
        trainer.train()
        assert push_copy(place, REPO)() is None, "there is no checkpoint in this directory"
    assert trainer.state.global_step == 2
    assert "did not take the files" in caplog.text
    assert f"{place} was not pushed: `directory` must hold a checkpoint" in caplog.text
    with pytest.raises(HubError, match="did not take the files"):
        trainer.push_to_hub()
    assert hub.log(REPO) == ["initial commit"]
    hub.forget()
    trainer.push_to_hub()
    assert hub.log(REPO) == ["initial commit", "End of training"]


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_states_of_optimisers_are_not_pushed(strategy, tmp_path):
    with pytest.raises(ValueError, match="`hub_strategy` must be 'every_save' or 'end'"):
        LionSFTConfig(output_dir=str(tmp_path), hub_strategy=strategy, use_cpu=True)
