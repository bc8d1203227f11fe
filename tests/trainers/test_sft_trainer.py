import copy
import itertools
import logging
import os
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion.processing_lion import TRANSFORMERS_5
from tests.trainers.conftest import make_rows, tiny_config, tiny_model
from trainers.collator import LionDataCollator
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import get_stage


BOTH = ["region_level", "image_level"]


def make_trainer(path, processor, model=None, rows=None, eval_rows=None, peft_config=None, callbacks=None, **fields):
    fields = {
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "generation_max_new_tokens": 6,
        "disable_tqdm": True,
        **fields,
    }
    args = LionSFTConfig(output_dir=str(path), use_cpu=True, **fields)
    return LionSFTTrainer(
        tiny_model(BOTH) if model is None else model,
        args,
        train_dataset=make_rows() if rows is None else rows,
        eval_dataset=eval_rows,
        processing_class=processor,
        peft_config=peft_config,
        callbacks=callbacks,
    )


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trainable_state(trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def test_a_training_in_bfloat16_leaves_the_next_one_as_it_is(tmp_path, processor, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    LionSFTConfig(output_dir=str(tmp_path / "first"), use_cpu=True, bf16=True)
    assert make_trainer(tmp_path / "second", processor).accelerator.mixed_precision == "no"
    assert make_trainer(tmp_path / "third", processor, bf16=True).accelerator.mixed_precision == "bf16"
    if TRANSFORMERS_5:  # a trainer of transformers' own would take it over from there
        assert "ACCELERATE_MIXED_PRECISION" not in os.environ


@pytest.mark.parametrize("accumulation", [1, 3])
def test_loss_is_the_models_own_over_the_whole_global_batch(tmp_path, processor, accumulation):
    """Answers differ in length: a mean of means over micro-batches would be another number."""
    rows = make_rows(6)
    model = tiny_model(BOTH, dropout=0.0)
    with torch.no_grad():
        expected = model(**LionDataCollator(processor)(list(rows))).loss.item()
    trainer = make_trainer(
        tmp_path,
        processor,
        model,
        rows,
        stage="stage3",
        max_steps=1,
        per_device_train_batch_size=6 // accumulation,
        gradient_accumulation_steps=accumulation,
        image_augmentation=False,
    )
    trainer.train()
    assert losses(trainer) == pytest.approx([expected], rel=1e-4)  # transformers 4 logs four decimals


def test_accumulated_gradients_are_those_of_the_global_batch(tmp_path, processor):
    results = []
    for accumulation in (1, 3):
        trainer = make_trainer(
            tmp_path / str(accumulation),
            processor,
            tiny_model(BOTH, dropout=0.0),
            make_rows(6),
            stage="stage3",
            max_steps=2,
            per_device_train_batch_size=6 // accumulation,
            gradient_accumulation_steps=accumulation,
            image_augmentation=False,
            optim="sgd",
        )
        trainer.train()
        results.append(trainable_state(trainer))
    moved = trainable_state(
        make_trainer(tmp_path, processor, tiny_model(BOTH, dropout=0.0), stage="stage3", max_steps=1)
    )
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-6, msg=name)
    assert any(not torch.equal(moved[name], value) for name, value in results[0].items())


def test_only_the_stage_is_changed(tmp_path, processor):
    trainer = make_trainer(tmp_path, processor, stage="stage2", max_steps=2)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    trainable = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert changed <= trainable
    assert {n.split(".")[0] for n in changed} >= {
        "vision_aggregator",
        "aggregator_projection",
        "soft_prompt",
        "language_model",
    }


@pytest.mark.parametrize("way", ["plain", "adapter"])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, processor, way):
    """With dropout, augmentation, accumulation, and an epoch's border after the checkpoint."""

    def trainer_in(path):
        fields = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
        fields |= {"gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine", "warmup_steps": 2}
        if way == "plain":
            return make_trainer(path, processor, stage="stage3", **fields)
        config = get_stage("stage1").peft_config(bottleneck_size=4)
        return make_trainer(path, processor, tiny_model(), peft_config=config, **fields)

    whole = trainer_in(tmp_path / "whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = trainer_in(tmp_path / "resumed")
    torch.manual_seed(123)
    resumed.train(resume_from_checkpoint=True)

    assert losses(resumed) == losses(whole)
    assert len(losses(whole)) == 6
    expected = trainable_state(whole)
    for name, value in trainable_state(resumed).items():
        assert torch.equal(value, expected[name]), name


def test_parameter_groups(tmp_path, processor):
    trainer = make_trainer(
        tmp_path, processor, stage="stage3", weight_decay=0.05, aggregator_learning_rate_scale=3.0, max_steps=1
    )
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    seen = {}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen[name] = (group["lr"], group["weight_decay"])
            vector = parameter.ndim < 2 or name.endswith("bias") or "router_ratios" in name
            assert group["weight_decay"] == (0.0 if vector else 0.05), name
            assert group["lr"] == pytest.approx(3e-2 if name.startswith("vision_aggregator.") else 1e-2), name
    assert set(seen) == {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert {decay for _, decay in seen.values()} == {0.0, 0.05}


def test_evaluation_generates_answers(tmp_path, processor):
    rows = make_rows(6)
    trainer = make_trainer(
        tmp_path,
        processor,
        stage="stage3",
        max_steps=1,
        eval_rows={"captions": rows.select([0, 2, 4]), "boxes": rows.select([1, 3])},
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=2,
    )
    trainer.train()
    logged = dict(itertools.chain.from_iterable(e.items() for e in trainer.state.log_history))
    assert logged["eval_captions_loss"] > 0
    assert 0 <= logged["eval_captions_exact_match"] <= 1
    assert 0 <= logged["eval_boxes_box_accuracy"] <= 1
    assert "eval_captions_box_accuracy" not in logged

    seen = []
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or {}
    trainer.evaluate(rows)
    assert seen[0].predictions.shape == (6, seen[0].predictions.shape[1])
    inputs = LionDataCollator(processor)(list(rows))
    labels = inputs.pop("labels")
    own = trainer.model.eval().generate(**inputs, max_new_tokens=6, num_beams=1)
    for i in range(6):
        generated = [t for t in seen[0].predictions[i].tolist() if t != -100]
        assert generated == [t for t in own[i].tolist() if t != 0]
        assert [t for t in seen[0].label_ids[i].tolist() if t != -100] == [t for t in labels[i].tolist() if t != -100]


def test_evaluation_does_not_augment(tmp_path, processor):
    rows = make_rows(4)
    trainer = make_trainer(
        tmp_path, processor, stage="stage3", max_steps=1, eval_rows=rows, per_device_eval_batch_size=4
    )
    batch = next(iter(trainer.get_eval_dataloader()))
    expected = LionDataCollator(processor)(list(rows))
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    training_batches = torch.cat([b["pixel_values"] for b in trainer.get_train_dataloader()])
    assert not all(any(torch.equal(p, e) for e in expected["pixel_values"]) for p in training_batches)


@pytest.mark.parametrize("active", [True, False])
def test_dropout_of_frozen_parts_is_an_option(tmp_path, processor, active):
    """Stage 2 trains nothing with dropout but the aggregator: with that at zero, only the frozen LLM could drop."""
    config = tiny_config(BOTH)
    config.aggregator_config.dropout = 0.0
    model = LionForConditionalGeneration(config)
    rows = make_rows(4)
    trainer = make_trainer(tmp_path, processor, model, rows, stage="stage2", max_steps=1, frozen_dropout=active)
    inputs = LionDataCollator(processor)(list(rows))
    trainer.model.train()
    values = {trainer.compute_loss(trainer.model, dict(inputs)).item() for _ in range(3)}
    assert (len(values) > 1) == active


@pytest.mark.parametrize("frozen_dropout", [True, False])
def test_gradient_checkpointing_changes_nothing(tmp_path, processor, frozen_dropout):
    results = []
    for enabled in (False, True):
        trainer = make_trainer(
            tmp_path / str(enabled),
            processor,
            tiny_model(BOTH, dropout=0.0),
            stage="stage3",
            max_steps=3,
            gradient_checkpointing=enabled,
            frozen_dropout=frozen_dropout,
        )
        trainer.train()
        results.append((losses(trainer), trainer.model.language_model.encoder.gradient_checkpointing))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert [checkpointing for _, checkpointing in results] == [False, True]


def test_streams_train_and_resume(tmp_path, processor):
    stream = make_rows(8).add_column("index", list(range(8))).to_iterable_dataset().repeat(None)

    def trainer_in(path):
        return make_trainer(
            path, processor, rows=stream, stage="stage3", max_steps=6, save_strategy="steps", save_steps=3
        )

    whole = trainer_in(tmp_path / "whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    resumed = trainer_in(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)


def test_batch_of_unusable_rows_has_no_loss(tmp_path, processor, caplog):
    trainer = make_trainer(tmp_path, processor, stage="stage3")
    broken = [{**row, "image": {"bytes": b"broken", "path": None}, "index": i} for i, row in enumerate(make_rows(2))]
    with caplog.at_level(logging.WARNING):
        loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(broken))
    loss.backward()
    assert loss.item() == 0.0
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)
    assert trainer.bad_rows.summary() == {"rows": 2}
    assert "Row 0 of 'rows' image cannot be read" in caplog.text


def test_saved_adapter_loads_with_peft_and_holds_no_pickle(tmp_path, processor):
    trainer = make_trainer(
        tmp_path, processor, tiny_model(), peft_config=get_stage("stage1").peft_config(bottleneck_size=4), max_steps=2
    )
    trainer.train()
    trainer.save_model()
    files = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "training_args.json"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in files)

    inputs = LionDataCollator(processor)(list(make_rows(4)))
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    trained = trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, trained(**inputs).logits)
        assert not torch.equal(tiny_model().eval()(**inputs).logits, trained(**inputs).logits)


def test_lora_trains_as_well(tmp_path, processor):
    config = LoraConfig(target_modules=["q", "v"], r=2)
    trainer = make_trainer(tmp_path, processor, get_peft_model(tiny_model(BOTH), config), max_steps=2)
    trainer.train()
    assert len(losses(trainer)) == 2


def test_wrong_arguments(tmp_path, processor):
    frozen = tiny_model().requires_grad_(False)
    trainer = make_trainer(tmp_path, processor, frozen, max_steps=1)
    with pytest.raises(ValueError, match="no trainable parameter"):
        trainer.create_optimizer()
    config = get_stage("stage1").peft_config(bottleneck_size=4)
    with pytest.raises(ValueError, match="`stage` is for a plain model"):
        make_trainer(tmp_path, processor, tiny_model(), peft_config=config, stage="stage1")
    with pytest.raises(ValueError, match="`processing_class`"):
        make_trainer(tmp_path, None)
    with pytest.raises(TypeError, match="LionSFTConfig"):
        LionSFTTrainer(tiny_model(), {"output_dir": "x"}, processing_class=processor)


@pytest.mark.parametrize("task_type", [None, "SEQ_2_SEQ_LM", "CAUSAL_LM", "FEATURE_EXTRACTION"])
def test_levels_reach_a_model_with_differing_routers_through_any_wrapper(tmp_path, processor, task_type):
    """PEFT's wrapper of sequence-to-sequence models takes `task_ids` for its own prompts: `level_ids` passes."""
    model = tiny_model(BOTH, dropout=0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapter." in name:
                parameter.add_(torch.randn_like(parameter))
    batch = LionDataCollator(processor)(list(make_rows(4)))
    with torch.no_grad():
        expected = model(**batch).loss.item()
        other = model(**{**batch, "level_ids": 1 - batch["level_ids"]}).loss.item()
    assert abs(expected - other) > 1e-3  # or this test could not fail
    lora = LoraConfig(target_modules=["q", "v"], task_type=task_type, lora_dropout=0.0)
    trainer = make_trainer(
        tmp_path, processor, model, make_rows(4), peft_config=lora, max_steps=1, eval_rows=make_rows(4)
    )
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, rel=1e-5)
    trainer.train()
    merged = copy.deepcopy(trainer.model).merge_and_unload().eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, trainer.model.eval()(**batch).logits, rtol=1e-4, atol=1e-5)
