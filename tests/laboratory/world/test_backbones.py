import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from configuration_lion.configuration_ram import RamConfig
from laboratory.world import backbones
from laboratory.world.backbones import PHASES, Phases, build_processor, nano_config, pretrain_backbones
from laboratory.world.batches import LAYOUTS, InstructionBatches, PatchBatches
from laboratory.world.initialization import initialize_by_similarity
from laboratory.world.language import TAGS
from laboratory.world.tagger_thresholds import best_thresholds
from laboratory.world.targets import VisualVocabulary
from laboratory.world.teachers import AnswerTeacher, ConnectorTeacher, SymbolTeacher, TaggerTeacher, TowerTeacher
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return build_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture
def lion(processor):
    torch.manual_seed(0)
    return LionForConditionalGeneration(nano_config(processor))


@pytest.fixture
def vocabulary(lion, processor):
    return VisualVocabulary(lion.get_input_embeddings().weight, processor.tokenizer, lion.config.num_query_tokens)


def batches(processor, questions=2, pictures=True):
    return InstructionBatches(6, 0, 3, processor, questions, patch_size=16, num_slots=8, images=pictures)


def test_a_batch_of_a_number_is_always_the_same(processor):
    for data in (batches(processor), PatchBatches(3, 0, 2, 16)):
        first, second = data[2], data[2]
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first if key != "layout")
        assert not torch.equal(first["pixel_values"], data[1]["pixel_values"])


def test_layouts_ask_what_their_stage_asks(processor):
    data = batches(processor)
    assert [data[index]["layout"] for index in range(3)] == list(LAYOUTS)
    assert set(data[0]["level_ids"].tolist()) == {1}
    assert set(data[1]["level_ids"].tolist()) == {0}
    assert data[0]["scene_index"].tolist() == [0, 0, 1, 1, 2, 2]


def test_images_are_those_of_the_processor(processor):
    from laboratory.world.scene import render, sample_scene

    data = PatchBatches(1, 0, 1, 16)
    pixels = data.make(0, [5])["pixel_values"]
    scene = sample_scene(5)
    own = processor(images=render(scene), text="", return_tensors="pt")["pixel_values"]
    if data.make(0, [5])["rank"].max() == len(scene.objects):  # not one of the crowded ones
        assert torch.allclose(pixels, own, atol=1e-5)


def gradients(teacher, batch):
    teacher(**batch)["loss"].backward()
    return {
        name for name, parameter in teacher.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


def test_tower_teacher_reaches_every_block(lion):
    names = gradients(TowerTeacher(lion), PatchBatches(1, 0, 2, 16)[0])
    for part in ("embeddings.patch_embedding", "encoder.layers.0.mlp", "encoder.layers.5.mlp"):
        assert any(part in name for name in names), part


@pytest.mark.parametrize("layout", LAYOUTS)
def test_symbols_teach_the_language_model_alone(lion, vocabulary, processor, layout):
    batch = batches(processor, pictures=False)[list(LAYOUTS).index(layout)]
    names = gradients(SymbolTeacher(lion, vocabulary), batch)
    assert {name.split(".")[1] for name in names} <= {"language_model", "soft_prompt"}
    assert "lion.language_model.shared.weight" in names


def test_connectors_are_taught_from_the_images(lion, vocabulary, processor):
    names = gradients(ConnectorTeacher(lion, vocabulary), batches(processor, questions=1)[0])
    parts = {name.split(".")[1] for name in names}
    assert {"qformer", "query_tokens", "vision_aggregator", "aggregator_projection"} <= parts
    assert "language_model" not in parts


@pytest.mark.parametrize(("layout", "silent"), [("qformer", "vision_aggregator"), ("aggregator", "qformer")])
def test_answers_teach_the_branches_of_the_layout(lion, processor, layout, silent):
    batch = batches(processor)[list(LAYOUTS).index(layout)]
    parts = {name.split(".")[1] for name in gradients(AnswerTeacher(lion), batch)}
    assert silent not in parts
    assert {"language_model", {"qformer": "qformer"}.get(layout, "aggregator_projection")} <= parts


def test_the_loss_of_the_answers_is_the_models_own(lion, processor):
    batch = batches(processor)[2]
    loss = AnswerTeacher(lion.eval())(**batch)["loss"]
    lion.set_active_branches(["qformer", "aggregator"])
    inputs = {key: batch[key] for key in batch if not key.startswith(("slot_", "patch_")) and key != "layout"}
    inputs["pixel_values"] = inputs["pixel_values"][inputs.pop("scene_index")]
    assert torch.allclose(loss, lion(**inputs).loss, atol=1e-5)


def test_tagger_teacher(processor):
    tagger = RamForImageTagging(RamConfig.from_preset("nano", tags=list(TAGS)))
    names = gradients(TaggerTeacher(tagger), PatchBatches(1, 0, 2, 16, for_tagger=True)[0])
    assert "tagger.classifier.weight" in names
    assert "glyph.weight" in names
    assert not tagger.vision_model._forward_hooks


@torch.no_grad()
def test_similar_tokens_find_each_other_from_the_start(lion, processor):
    model = lion.language_model
    initialize_by_similarity(model, processor.tokenizer)
    star, red, sun, sea = processor.tokenizer.convert_tokens_to_ids(["▁star", "▁red", "▁sun", "▁the"])
    words = model.shared.weight
    attention = model.encoder.block[0].layer[0].SelfAttention
    tokens = torch.nn.functional.layer_norm(torch.stack([words[star] + words[red], words[sun], words[sea]]), (128,))
    scores = (attention.k(tokens) @ attention.q(words[star])).tolist()
    assert scores[0] > max(scores[1:]) + 5


def test_initialisation_gives_forms_of_a_word_like_embeddings(lion, processor):
    initialize_by_similarity(lion.language_model, processor.tokenizer)
    words = lion.language_model.shared.weight

    def likeness(*pieces):
        return torch.cosine_similarity(*words[processor.tokenizer.convert_tokens_to_ids(list(pieces))], dim=0)

    assert likeness("▁star", "star") > 0.99
    assert likeness("▁star", "▁stars") > 0.7 > 0.4 > likeness("▁star", "▁sun")
    assert likeness("▁yes", "▁true") > 0.7 > 0.4 > likeness("▁yes", "▁false")
    assert likeness("0.500", "0.510") > 0.8 > 0.4 > likeness("0.000", "0.500")


class Interrupted(PatchBatches):
    def __getitem__(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_a_resumed_phase_ends_where_an_uninterrupted_one_does(lion, tmp_path):
    start = {name: value.clone() for name, value in lion.state_dict().items()}

    def run(directory, kind=PatchBatches):
        lion.load_state_dict(start)
        torch.manual_seed(1)
        phases = Phases(directory, {"tower": 4}, seed=0, bf16=False, save_steps=2)
        phases.train("tower", TowerTeacher(lion), lion.vision_model, kind(4, 0, 2, 16))
        return load_file(directory / "tower" / "weights.safetensors")

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Interrupted)
    assert (tmp_path / "parts" / "tower" / "checkpoint-2").is_dir()
    resumed = run(tmp_path / "parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], start[f"vision_model.{name}"]) for name in whole)


def test_phases_side_by_side_make_the_same_base(tmp_path, monkeypatch):
    thresholds = [0.25] * len(TAGS)
    monkeypatch.setattr(backbones, "calibrate_thresholds", lambda tagger: thresholds)
    base = pretrain_backbones(tmp_path / "two", steps=dict.fromkeys(PHASES, 1), bf16=False, processes=2)
    lion, tagger = (
        LionForConditionalGeneration.from_pretrained(base),
        RamForImageTagging.from_pretrained(base / "tagger"),
    )
    assert lion.config.visual_branches == ["qformer", "aggregator"]
    assert tagger.config.thresholds == thresholds
    assert pretrain_backbones(tmp_path / "two", resume=True) == base

    one = Phases(tmp_path / "two" / "one", dict.fromkeys(PHASES, 1), seed=0, bf16=False, save_steps=250)
    shutil.copytree(tmp_path / "two" / "processor", one.output_dir / "processor")
    one.run("tower")
    learnt = one.weights("tower")
    assert all(
        torch.equal(learnt[name], value) for name, value in load_file(base.parent / "tower/weights.safetensors").items()
    )
    kept = lion.vision_model.state_dict()
    assert all(torch.equal(learnt[name], kept[name]) for name in learnt if "post_layernorm" not in name)
    assert not torch.equal(learnt["post_layernorm.weight"], kept["post_layernorm.weight"])


def test_chains_run_in_turn_under_torchrun(tmp_path, monkeypatch):
    # Each process would start children of its own, which all take the same port.
    monkeypatch.setenv("WORLD_SIZE", "2")
    ran = []
    monkeypatch.setattr(Phases, "run", lambda self, phase: ran.append(phase))
    Phases(tmp_path, {}, seed=0, bf16=False, save_steps=1).run_chains((("language", "places"), ("tower",)), 2)
    assert ran == ["language", "places", "tower"]


def test_phases_bring_only_what_they_learnt(processor, tmp_path):
    processor.save_pretrained(tmp_path / "processor")
    phases = Phases(tmp_path, {}, seed=0, bf16=False, save_steps=1)
    lion, _ = phases.build_lion()
    start = {name: value.clone() for name, value in lion.state_dict().items()}
    for number, phase in enumerate(("connectors", "language"), start=1):
        (tmp_path / phase).mkdir()
        save_file({name: value + number for name, value in start.items()}, tmp_path / phase / "weights.safetensors")
    phases.load(lion, "connectors", "language")
    moved = {name: (value - start[name]).mean().round().item() for name, value in lion.state_dict().items()}
    visual = ("qformer", "query_tokens", "language_projection", "vision_", "aggregator_")
    assert moved == {name: 1 if name.startswith(visual) else 2 for name in moved}


def test_thresholds_are_the_best_for_each_tag():
    truth = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]]).bool()
    probabilities = torch.tensor([[0.9, 0.2], [0.7, 0.4], [0.5, 0.1], [0.3, 0.35]])
    first, second = best_thresholds(probabilities, truth)
    assert 0.5 <= first < 0.7
    assert 0.2 <= second < 0.35


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        pretrain_backbones(tmp_path / "new", processes=0)
    with pytest.raises(ValueError, match="steps must name phases among tower, .* got towel"):
        pretrain_backbones(tmp_path / "new", steps={"towel": 3})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="holds an earlier run"):
        pretrain_backbones(tmp_path)
    # The order numbers the scenes of each phase: a new one comes last.
    assert list(PHASES) == ["tower", "language", "connectors", "answers", "tagger", "places"]
