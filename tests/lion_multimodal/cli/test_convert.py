"""`lion convert`: what it prints, what it returns, and what it leaves."""

import pytest
import torch
from safetensors.torch import load_file

from lion_multimodal.cli.main import main
from modeling_lion import LionForConditionalGeneration, LionTagger
from tests.golden import load_golden
from tests.official_files import change, write_official, write_official_ram


@pytest.fixture
def files(tmp_path):
    return write_official(tmp_path)


def arguments(files, output, *more) -> list[str]:
    given = ["convert", "official", "--output", output, *more]
    for field in ("checkpoint", "vision", "text_model", "qformer_tokenizer", "config"):
        given += [f"--{field.replace('_', '-')}", getattr(files, field)]
    return [str(argument) for argument in given]


def test_the_whole_way(files, tmp_path, capsys):
    ram = write_official_ram(tmp_path / "ram")
    out = tmp_path / "lions" / "out"
    tagger = ["--ram", ram, "--ram-tags", tmp_path / "ram" / "ram" / "data"]
    assert main(arguments(files, out, "--verify", *tagger)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[0]
        == "layout    of no released size; branches: qformer, aggregator; adapters: region_level, image_level"
    )
    assert printed[1].startswith("source    LION.pth: 242 parameters taken")
    assert printed[1].endswith("2 the same as elsewhere, 1 left out")
    assert printed[2].startswith("source    eva_vit_g.pth: 472 parameters taken")
    assert printed[2].endswith("0 the same as elsewhere, 16 left out")
    assert printed[3].startswith("source    flan-t5: 75 parameters taken")
    assert printed[4].startswith("tagger    ram.pth: ")
    assert printed[4].endswith(" 40 tags")
    assert printed[5] == f"written   {out}"
    assert printed[6] == "verified  789 parameters have the checksums of their sources"
    assert LionTagger.from_pretrained(out).model.config.num_tags == 40
    assert LionForConditionalGeneration.from_pretrained(out, dtype="auto").dtype == torch.bfloat16

    # A second time there is nothing to write, but to verify.
    assert main(arguments(files, out, "--verify", *tagger)) == 0
    assert "written" not in capsys.readouterr().out
    assert main(arguments(files, out, *tagger)) == 1
    assert "exists already and is not empty" in capsys.readouterr().err

    official = tmp_path / "official.safetensors"
    assert main(["convert", "to-official", "--model", str(out), "--output", str(official)]) == 0
    assert f"written   {official}: 837 tensors" in capsys.readouterr().out
    assert load_file(official).keys() == load_golden("all").official_state_dict.keys()


def test_what_is_wrong_is_listed_and_nothing_is_written(files, tmp_path, capsys):
    change(files.checkpoint, query_tokens=None, mystery=torch.zeros(1), t5_proj__bias=torch.zeros(3))
    assert main(arguments(files, tmp_path / "out")) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-4:] == [
        "lion: error: the files don't make up a model, and nothing was written:",
        "  missing: query_tokens",
        "  unexpected: mystery (LION.pth)",
        "  wrong shape: t5_proj.bias is (3,), expected (32,) (LION.pth)",
    ]
    assert printed.out == ""
    assert not list(tmp_path.glob("out*"))


def test_verify_lists_what_differs(files, tmp_path, capsys):
    assert main(arguments(files, tmp_path / "out", "--dtype", "float32")) == 0
    change(files.vision, blocks__3__norm1__bias=torch.full((32,), 7.0))
    assert main(arguments(files, tmp_path / "out", "--verify")) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"lion: error: {tmp_path / 'out'} is not what its sources say:",
        "  differs: vision_model.encoder.layers.3.layer_norm1.bias, from visual_encoder.blocks.3.norm1.bias of "
        "eva_vit_g.pth",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-shard-size", "large"], "a size such as 5GB"),
        (["--ram", "ram.pth"], "--ram needs --ram-tags"),
        (["--ram-thresholds", "thresholds.txt"], "belong to --ram"),
        (["--checkpoint", "nowhere.pth"], "there is no file nowhere.pth"),
        (["--text-model", "nowhere"], "there is no directory nowhere"),
        (["--qformer-tokenizer", "nowhere"], "there is no directory nowhere with a tokenizer"),
        (["--config", "nowhere.json"], "nowhere.json"),
    ],
)
def test_errors_are_one_line(files, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    given = arguments(files, tmp_path / "out")
    for name in [argument for argument in more if argument in given]:
        position = given.index(name)
        del given[position : position + 2]
    assert main([*given, *more]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("lion: error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["official", "to-official"])
def test_help(capsys, way):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", way, "--help"])
    assert stopped.value.code == 0
    assert f"usage: lion convert {way}" in capsys.readouterr().out
