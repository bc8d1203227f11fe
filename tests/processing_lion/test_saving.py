"""Saving and loading, in fresh processes: as package and as remote code, and by the other major version."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from lion_multimodal import checkpoints
from processing_lion import LionProcessor, check_processor_files


ROOT = Path(__file__).parents[2]
SAMPLE = {
    "images": [[[[10 * x, 20 * y, 5] for x in range(9)] for y in range(6)]] * 2,
    "text": ["where is the dog?", "what is <extra_id_0> [DEC]?"],
    "tags": ["dog, cat", ["table"]],
    "answers": ["[0.440,0.060,0.650,0.367]", "a woman."],
}

# Prints the outputs of the processor in the folder argv[1], after saving it again to argv[2], if given.
LOAD_AND_CALL = """
import json, sys
for module in ("sentencepiece", "google.protobuf"):  # neither is needed to load what was saved
    sys.modules[module] = None
import numpy
{imports}
processor = {load}
sample = json.loads({sample!r})
sample["images"] = [numpy.array(image, dtype=numpy.uint8) for image in sample["images"]]
output = processor(**sample)
chat = processor.apply_chat_template([{{"role": "user", "content": "hello"}}])
values = {{name: value.tolist() for name, value in output.items()}}
limits = [processor.max_text_length, processor.max_qformer_text_length, processor.max_answer_length]
if len(sys.argv) > 2:
    processor.save_pretrained(sys.argv[2])
print(json.dumps([values, chat, limits, len(processor.qformer_tokenizer)]))
"""
AS_PACKAGE = {
    "imports": "from processing_lion import LionProcessor",
    "load": "LionProcessor.from_pretrained(sys.argv[1])",
}
AS_REMOTE_CODE = {
    "imports": "from transformers import AutoImageProcessor, AutoProcessor",
    "load": "AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
    "image_processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
    "assert image_processor.size == processor.image_processor.size",
}


def run(folder, *more, code, python=sys.executable, cwd=None):
    script = LOAD_AND_CALL.format(sample=json.dumps(SAMPLE), **code)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(folder).parent / "modules")}
    environment["PYTHONPATH"] = str(ROOT) if code is AS_PACKAGE else ""
    done = subprocess.run(
        [python, "-c", script, str(folder), *map(str, more)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd or Path(folder).parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def call(processor):
    """What LOAD_AND_CALL prints."""
    images = [Image.frombytes("RGB", (9, 6), bytes(sum(sum(image, []), []))) for image in SAMPLE["images"]]
    output = processor(**{**SAMPLE, "images": images})
    chat = processor.apply_chat_template([{"role": "user", "content": "hello"}])
    limits = [processor.max_text_length, processor.max_qformer_text_length, processor.max_answer_length]
    return [{k: v.tolist() for k, v in output.items()}, chat, limits, len(processor.qformer_tokenizer)]


@pytest.fixture(scope="module")
def saved(make_processor, tmp_path_factory):
    """A saved processor and what it gives before."""
    processor = make_processor(max_text_length=100, max_qformer_text_length=50, max_answer_length=14)
    folder = tmp_path_factory.mktemp("saved") / "lion"
    processor.save_pretrained(folder)
    return folder, call(processor)


def test_same_outputs_after_loading(saved):
    folder, expected = saved
    assert expected[1:] == ["hello", [100, 50, 14], 608]
    loaded = LionProcessor.from_pretrained(folder)
    assert loaded.qformer_tokenizer.bos_token == "[DEC]"
    assert loaded.chat_template
    assert call(loaded) == expected


def test_saved_files_speak_the_words_of_both_major_versions(saved):
    folder, _ = saved
    for file in (folder / "tokenizer_config.json", folder / "qformer_tokenizer" / "tokenizer_config.json"):
        config = json.loads(file.read_text())
        assert not isinstance(config.get("extra_special_tokens"), list)
        assert config["tokenizer_class"] != "TokenizersBackend"
        assert "add_prefix_space" not in config
    assert not list(folder.rglob("*.pkl")) + list(folder.rglob("*.bin"))


def test_as_remote_code_for_two_generations(saved, tmp_path):
    folder, expected = saved
    second = tmp_path / "second"
    assert run(folder, second, code=AS_REMOTE_CODE) == expected
    assert {file.name for file in second.glob("*.py")} == {file.name for file in folder.glob("*.py")}
    assert run(second, code=AS_REMOTE_CODE) == expected


@pytest.mark.skipif("LION_PEER_PYTHON" not in os.environ, reason="needs an interpreter with the other transformers")
@pytest.mark.parametrize("code", [AS_PACKAGE, AS_REMOTE_CODE], ids=["package", "remote code"])
def test_the_other_major_version(saved, tmp_path, code):
    """Saved here, loaded and saved there, loaded here: the same throughout."""
    folder, expected = saved
    second = tmp_path / "second"
    results = [run(folder, second, code=code, python=os.environ["LION_PEER_PYTHON"]), run(second, code=code)]
    for values, *rest in results:
        pixels = torch.tensor(values.pop("pixel_values"))
        assert torch.allclose(pixels, torch.tensor(expected[0]["pixel_values"]), atol=1e-6)
        assert values == {name: value for name, value in expected[0].items() if name != "pixel_values"}
        assert rest == expected[1:]


def test_text_is_normalised_as_the_files_say():
    processor = LionProcessor.from_pretrained(checkpoints.path("nano"))
    capitals, small = processor(text=["WHAT Is There?", "what is there?"], return_tensors="pt")["input_ids"]
    assert capitals.equal(small)


def test_loading_from_a_subfolder(saved, tmp_path):
    folder, _ = saved
    LionProcessor.from_pretrained(folder).save_pretrained(tmp_path / "repo" / "nested")
    loaded = LionProcessor.from_pretrained(tmp_path / "repo", subfolder="nested")
    assert len(loaded.qformer_tokenizer) == 608


def test_push_to_hub_sends_every_file(saved, monkeypatch, tmp_path):
    processor = LionProcessor.from_pretrained(saved[0])
    sent = []

    def push(self, repo_id, **kwargs):
        work = tmp_path / "work"
        self.save_pretrained(work)
        sent.append((repo_id, kwargs, sorted(str(file.relative_to(work)) for file in work.rglob("*.json"))))

    monkeypatch.setattr(LionProcessor, "push_to_hub", push)
    processor.save_pretrained(tmp_path / "lion", push_to_hub=True, private=True)
    [(repo_id, kwargs, files)] = sent
    assert (repo_id, kwargs) == ("lion", {"private": True})
    assert os.path.join("qformer_tokenizer", "tokenizer.json") in files


@pytest.mark.parametrize(
    "file",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "qformer_tokenizer/tokenizer.json",
        "qformer_tokenizer/tokenizer_config.json",
        "processor_config.json",
    ],
)
def test_a_missing_file_is_named(saved, tmp_path, file):
    """transformers would make up a tokenizer, or take the other one."""
    folder = tmp_path / "lion"
    shutil.copytree(saved[0], folder)
    check_processor_files(folder)
    (folder / file).unlink()
    # From these a tokenizer could be made again; transformers 4 saves them beside tokenizer.json.
    for other in ("spiece.model", "vocab.txt"):
        (folder / file).with_name(other).unlink(missing_ok=True)
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    for load in (check_processor_files, LionProcessor.from_pretrained):
        with pytest.raises(OSError, match=f"{re.escape(str(folder / file))} is missing: .*incomplete"):
            load(folder)


@pytest.mark.parametrize("content", ["", "{", "null", "[]"])
def test_a_damaged_tokenizer_is_named(saved, tmp_path, content):
    folder = tmp_path / "lion"
    shutil.copytree(saved[0], folder)
    (folder / "qformer_tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(OSError, match=r"the tokenizer in .*qformer_tokenizer cannot be loaded"):
        LionProcessor.from_pretrained(folder)


def test_a_tokenizer_that_makes_the_library_panic_is_named(saved, tmp_path):
    """A panic is no `Exception`: it would end a program as Ctrl-C does."""
    folder = tmp_path / "lion"
    shutil.copytree(saved[0], folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": -0.5}
    file.write_text(json.dumps(content))
    with pytest.raises(OSError, match=r"the tokenizer in .* cannot be loaded"):
        LionProcessor.from_pretrained(folder)


def test_loading_asks_nothing(saved, tmp_path):
    """Beside a model's configuration with code of its own, and in a process that has imported the processor alone."""
    folder = tmp_path / "lion"
    shutil.copytree(saved[0], folder)
    auto_map = {"AutoConfig": "configuration_lion.LionConfig"}
    (folder / "config.json").write_text(json.dumps({"model_type": "lion", "auto_map": auto_map}))
    assert run(folder, code=AS_PACKAGE) == saved[1]


def test_save_pretrained_keeps_its_arguments(saved, tmp_path):
    processor = LionProcessor.from_pretrained(saved[0])
    processor.save_pretrained(tmp_path / "lion", save_jinja_files=False)
    in_a_file = (tmp_path / "lion" / "chat_template.jinja").exists()
    assert in_a_file == transformers.__version__.startswith("5")  # which has no such argument any more
    assert LionProcessor.from_pretrained(tmp_path / "lion").chat_template == processor.chat_template
    with pytest.raises(ValueError, match="`save_jinja_files` cannot be given together"):
        processor.save_pretrained(tmp_path / "lion", save_jinja_files=False, push_to_hub=True)
