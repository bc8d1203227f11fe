"""The authors' files to a checkpoint and back: every number arrives, and from one place."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from lion_multimodal.conversion import files as conversion_files
from lion_multimodal.conversion import from_official as conversion_official
from lion_multimodal.conversion.checkpoint import convert_lion_checkpoint
from lion_multimodal.conversion.from_official import OfficialConversion
from lion_multimodal.conversion.layout import read_tag_files
from lion_multimodal.conversion.plan import ConversionError
from lion_multimodal.conversion.to_official import to_official
from modeling_lion import LionForConditionalGeneration, LionTagger
from modeling_lion.hub_lion import save_lion
from tests.golden import LAYOUTS, load_golden
from tests.official_files import GOLDEN_RAM, TEXT, VISION, change, is_frozen, write_official, write_official_ram


GB = 10**9
ROOT = Path(__file__).parents[3]


def convert(files, directory, dtype=torch.float32, max_shard_size=GB):
    conversion = OfficialConversion(files)
    conversion.write(directory, dtype, max_shard_size)
    return conversion


def stored(directory: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def problems_of(files) -> str:
    with pytest.raises(ConversionError) as raised:
        OfficialConversion(files)
    return "\n".join(raised.value.problems)


def converted_once(golden) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: the embeddings under one of their names."""
    converted = convert_lion_checkpoint(golden.official_state_dict, golden.config())
    return {name: tensor for name, tensor in converted.items() if not name.endswith("embed_tokens.weight")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_number_arrives_and_comes_back(tmp_path, layout):
    golden = load_golden(layout)
    conversion = convert(write_official(tmp_path, layout), tmp_path / "out", max_shard_size=500_000)
    expected = converted_once(golden)
    found = stored(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert conversion.verify(tmp_path / "out") == []
    counts = conversion.plan.counts()
    assert sum(count["taken"] for count in counts.values()) == len(expected)
    assert sum(count["elements"] for count in counts.values()) == sum(t.numel() for t in expected.values())

    loaded, report = LionForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    level_ids = torch.zeros(3, dtype=torch.long)
    logits = loaded(**golden.inputs, labels=golden.labels, level_ids=level_ids).logits
    torch.testing.assert_close(logits, golden.tensors["logits_region_level"], rtol=1e-3, atol=1e-3)

    to_official(tmp_path / "out", tmp_path / "official.safetensors")
    back, official = load_file(tmp_path / "official.safetensors"), golden.official_state_dict
    assert back.keys() == official.keys()
    for name, tensor in official.items():
        assert back[name].dtype == tensor.dtype, name
        assert torch.equal(back[name], tensor), name
    with pytest.raises(FileExistsError, match="exists already"):
        to_official(tmp_path / "out", tmp_path / "official.safetensors")


def test_a_whole_repo_with_its_tagger(tmp_path):
    ram = write_official_ram(tmp_path / "ram")
    files = write_official(tmp_path, ram=ram, ram_names=read_tag_files(tmp_path / "ram" / "ram" / "data"))
    conversion = convert(files, tmp_path / "out")
    assert conversion.verify(tmp_path / "out") == []

    tagger = LionTagger.from_pretrained(tmp_path / "out")
    texts = json.loads((GOLDEN_RAM / "expected.json").read_text(encoding="utf-8"))
    pixel_values = load_file(GOLDEN_RAM / "expected.safetensors")["pixel_values"].float()
    assert [" | ".join(tags) for tags in tagger.model.generate_tags(pixel_values)] == texts["tags_en"]
    assert tagger.image_processor.size == {"height": 224, "width": 224}

    # What `save_lion` writes of the same model, and the card.
    model = LionForConditionalGeneration.from_pretrained(tmp_path / "out")
    save_lion(tmp_path / "saved", model, AutoProcessor.from_pretrained(tmp_path / "out"), tagger)

    def names(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    assert names(tmp_path / "out") - {"README.md"} == names(tmp_path / "saved")
    for file in ("config.json", "generation_config.json"):
        ours, theirs = (json.loads((tmp_path / folder / file).read_text()) for folder in ("out", "saved"))
        ours.pop("_name_or_path", None), theirs.pop("_name_or_path", None)
        assert ours == theirs, file
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert f"| `{files.vision.name}` | 472 tensors |" in card
    assert "tagger" in card
    assert str(tmp_path) not in card


def test_bfloat16_rounds_once(tmp_path):
    golden = load_golden("all")
    convert(write_official(tmp_path), tmp_path / "out", torch.bfloat16)
    expected = converted_once(golden)
    found = stored(tmp_path / "out")
    assert all(torch.equal(found[name], tensor.bfloat16()) for name, tensor in expected.items())
    model = LionForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_float16_keeps_in_float32_what_it_cannot_hold(tmp_path):
    convert(write_official(tmp_path), tmp_path / "out", torch.float16)
    model = LionForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto")
    parameters = dict(model.named_parameters())
    for name, tensor in stored(tmp_path / "out").items():
        kept = ".wo." in name or ".adapter." in name
        assert tensor.dtype == (torch.float32 if kept else torch.float16), name
        assert not kept or parameters[name].dtype == torch.float32, name
        assert torch.equal(parameters[name].to(tensor.dtype), tensor), name
    assert parameters["language_projection.weight"].dtype == torch.float16


def test_numbers_beyond_float16_leave_nothing_behind(tmp_path):
    files = write_official(tmp_path)
    change(files.checkpoint, t5_proj__bias=torch.full((32,), 1e6))
    with pytest.raises(ValueError, match=r"language_projection\.bias holds numbers beyond the range of float16"):
        convert(files, tmp_path / "out", torch.float16)
    assert not list(tmp_path.glob("out*"))


def test_files_older_than_torch_1_6_and_bin_shards(tmp_path):
    files = write_official(tmp_path)
    convert(files, tmp_path / "new")
    for path in (files.checkpoint, files.vision):
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    text = {}
    for shard in files.text_model.glob("*.safetensors"):
        text |= load_file(shard)
        shard.unlink()
    (files.text_model / "model.safetensors.index.json").unlink()
    torch.save(text, files.text_model / "pytorch_model.bin")
    convert(files, tmp_path / "old")
    new, old = stored(tmp_path / "new"), stored(tmp_path / "old")
    assert all(torch.equal(new[name], old[name]) for name in new)


def test_a_checkpoint_that_holds_frozen_parts(tmp_path):
    """Then the other files may be left out, or repeat it."""
    files = write_official(tmp_path)
    alone = OfficialConversion(files)
    weights = load_golden("all").official_state_dict
    content = torch.load(files.checkpoint, weights_only=True)
    content["model"] |= {name: tensor.bfloat16() for name, tensor in weights.items() if name.startswith(VISION)}
    content["model"] |= {name: tensor for name, tensor in weights.items() if name.startswith(TEXT) and is_frozen(name)}
    torch.save(content, files.checkpoint)
    for shard in files.text_model.glob("*.safetensors*"):
        shard.rename(tmp_path / shard.name)
    counts = OfficialConversion(dataclasses.replace(files, vision=None)).plan.counts()
    assert [(name, count["taken"]) for name, count in counts.items()] == [("LION.pth", 789)]

    # The tower is there in float16, too: it agrees to bfloat16's precision, and is the finer one.
    plan = OfficialConversion(files).plan
    assert plan.counts()["eva_vit_g.pth"]["taken"] == alone.plan.counts()["eva_vit_g.pth"]["taken"]
    assert plan.counts()["LION.pth"]["repeated"] == 2 + 472

    changed = torch.load(files.vision, weights_only=True)["blocks.3.mlp.fc1.weight"] * 1.1
    change(files.vision, blocks__3__mlp__fc1__weight=changed)
    found = problems_of(files)
    assert found.count("\n") == 0
    assert "differs: visual_encoder.blocks.3.mlp.fc1.weight of eva_vit_g.pth and" in found
    assert "of LION.pth" in found


def test_copies_of_the_embeddings_that_are_of_another_llm(tmp_path):
    files = write_official(tmp_path)
    change(files.checkpoint, t5_model__encoder__embed_tokens__weight=torch.randn(804, 32).bfloat16())
    assert "differs: t5_model.shared.weight of flan-t5 and t5_model.encoder.embed_tokens.weight of LION.pth" in (
        problems_of(files)
    )


def test_everything_that_is_wrong_is_listed(tmp_path):
    files = write_official(tmp_path)
    change(
        files.checkpoint,
        query_tokens=None,
        soft_prompt_hint=torch.zeros(31),
        mystery__weight=torch.zeros(2),
        ln_vision__bias=torch.zeros(32, dtype=torch.int64),
    )
    change(files.vision, blocks__7__attn__q_bias=None, blocks__8__attn__proj__weight=torch.zeros(32, 31))
    found = problems_of(files)
    for line in (
        "missing: query_tokens",
        "wrong shape: soft_prompt_hint is (31,), expected (32,) (LION.pth)",
        "unexpected: mystery.weight (LION.pth)",
        "wrong type: ln_vision.bias is torch.int64 (LION.pth)",
        "incomplete: only one of the query and value biases: vision_model.encoder.layers.7.self_attn (eva_vit_g.pth)",
        "wrong shape: visual_encoder.blocks.8.attn.proj.weight is (32, 31), expected (32, 32) (eva_vit_g.pth)",
    ):
        assert line in found.splitlines()
    assert len(found.splitlines()) == 6
    assert "missing: visual_encoder.cls_token" in problems_of(dataclasses.replace(files, vision=None)).splitlines()


def test_tokenizers_must_fit(tmp_path):
    files = write_official(tmp_path)
    config = json.loads(files.config.read_text())
    config["qformer_config"]["vocab_size"] += 1
    files.config.write_text(json.dumps(config))
    change(files.checkpoint, Qformer__bert__embeddings__word_embeddings__weight=torch.zeros(609, 24))
    assert "tokenizer: that of bert has 608 tokens with [DEC], and the Q-Former 609 embeddings" in problems_of(files)


def test_a_damaged_tokenizer_is_named(tmp_path):
    files = write_official(tmp_path)
    (files.text_model / "spiece.model").unlink()  # which transformers 4 reads in its place
    normalizer = {"type": "Precompiled", "precompiled_charsmap": 1}  # makes the tokenizers library panic
    (files.text_model / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    with pytest.raises(OSError, match=r"the tokenizer in .*flan-t5 cannot be loaded"):
        OfficialConversion(files)


def test_code_that_a_tokenizer_names_is_neither_run_nor_named_again(tmp_path):
    files = write_official(tmp_path)
    qformer_tokenizer = Path(shutil.copytree(files.qformer_tokenizer, tmp_path / "bert"))
    for folder in (files.text_model, qformer_tokenizer):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["auto_map"] = {"AutoTokenizer": ["somebody/else--evil.Evil", None]}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    convert(dataclasses.replace(files, qformer_tokenizer=qformer_tokenizer), tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*.json") if "somebody/else" in path.read_text()]
    assert written == []


def test_a_tagger_that_does_not_fit(tmp_path):
    ram = write_official_ram(tmp_path / "ram")
    names = read_tag_files(tmp_path / "ram" / "ram" / "data")
    change(ram, fc__bias=None)
    assert "ram.pth" in problems_of(write_official(tmp_path, ram=ram, ram_names=names))
    ram = write_official_ram(tmp_path / "other")
    assert "tags must have one entry per tag: got 39 for num_tags=40" in problems_of(
        write_official(tmp_path, ram=ram, ram_names={"tags": names["tags"][:-1]})
    )


def test_verify_finds_a_changed_bit(tmp_path):
    conversion = convert(write_official(tmp_path), tmp_path / "out", max_shard_size=500_000)
    last = sorted((tmp_path / "out").glob("*.safetensors"))[-1]
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    (problem,) = conversion.verify(tmp_path / "out")
    assert problem.startswith("differs: ")
    tensors = load_file(last)
    lost = tensors.popitem()[0]
    save_file(tensors, last)
    assert f"missing: {lost}" in conversion.verify(tmp_path / "out")


def test_a_directory_with_something_in_it_is_left_alone(tmp_path):
    conversion = OfficialConversion(write_official(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already and is not empty"):
        conversion.write(out, torch.float32, GB)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    conversion.write(out, torch.float32, GB)
    assert (out / "config.json").is_file()


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    conversion = OfficialConversion(write_official(tmp_path))
    usage = type("Usage", (), {"free": 65 * 2**20})
    monkeypatch.setattr(conversion_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="GB of room"):
        conversion.write(tmp_path / "out", torch.float32, GB)
    assert not list(tmp_path.glob("out*"))


KILLED = """
import os, signal, sys
from lion_multimodal.conversion import files as conversion_files
from lion_multimodal.cli.main import main

save_file, saved = conversion_files.save_file, []


def save(tensors, path, metadata):
    save_file(tensors, path, metadata)
    saved.append(path)
    if len(saved) == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)


conversion_files.save_file = save
main(sys.argv[1:])
"""


def assert_does_not_load(directory: Path) -> None:
    assert list(directory.rglob("*.safetensors"))
    with pytest.raises(OSError, match=r"no file named|does not appear to have a file named"):
        LionForConditionalGeneration.from_pretrained(directory)


def test_a_killed_run_leaves_nothing_that_loads(tmp_path):
    files = write_official(tmp_path)
    out = tmp_path / "out"
    arguments = ["convert", "official", "--output", out, "--dtype", "float32", "--max-shard-size", "500KB"]
    for field in ("checkpoint", "vision", "text_model", "qformer_tokenizer", "config"):
        arguments += [f"--{field.replace('_', '-')}", getattr(files, field)]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    (left,) = tmp_path.glob("out*")
    assert_does_not_load(left)
    # The next run starts anew and clears up.
    conversion = convert(files, out)
    assert conversion.verify(out) == []
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


@pytest.mark.parametrize("before", ["_write_config", "reveal"])
def test_an_interrupted_run_leaves_nothing_that_loads(tmp_path, monkeypatch, before):
    """As above, at the steps that follow the weights; what a killed run would leave is copied."""
    conversion = OfficialConversion(write_official(tmp_path))
    left = tmp_path / "left"

    def interrupt(*args, **kwargs):
        shutil.copytree(tmp_path / "out.partial", left)
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion_official if before == "reveal" else OfficialConversion, before, interrupt)
    with pytest.raises(KeyboardInterrupt):
        conversion.write(tmp_path / "out", torch.float32, 500_000)
    assert not list(tmp_path.glob("out*"))
    assert_does_not_load(left)


def test_a_tagger_there_and_back(tmp_path):
    ram = write_official_ram(tmp_path / "ram")
    names = read_tag_files(tmp_path / "ram" / "ram" / "data")
    convert(write_official(tmp_path, ram=ram, ram_names=names), tmp_path / "out")
    to_official(tmp_path / "out" / "tagger", tmp_path / "official.safetensors")
    back = load_file(tmp_path / "official.safetensors")
    official = load_file(GOLDEN_RAM / "official_state_dict.safetensors")
    official = {k: v for k, v in official.items() if not k.endswith(("relative_position_index", "attn_mask"))}
    assert back.keys() == official.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in official.items())


def test_a_bias_that_the_official_tower_has_no_place_for(tmp_path):
    convert(write_official(tmp_path), tmp_path / "out")
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["vision_model.encoder.layers.5.self_attn.qkv.bias"][40] = 1.0
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.5\.self_attn\.qkv\.bias: the bias of the keys is not zero"):
        to_official(tmp_path / "out", tmp_path / "official.safetensors")
    assert not list(tmp_path.glob("official*"))


def test_what_is_no_whole_checkpoint_has_no_official_form(tmp_path):
    convert(write_official(tmp_path), tmp_path / "out")
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    tensors = load_file(weights)
    del tensors["soft_prompt.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ConversionError, match=r"missing: soft_prompt\.weight"):
        to_official(tmp_path / "out", tmp_path / "official.safetensors")
    with pytest.raises(FileNotFoundError, match="is no checkpoint"):
        to_official(tmp_path, tmp_path / "official.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="neither a LION nor its tagger"):
        to_official(tmp_path, tmp_path / "official.safetensors")
