"""From the base to a trained variant, leg by leg; what two variants have in common is trained once."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers.trainer_utils import get_last_checkpoint, set_seed

from configuration_lion import LionConfig
from laboratory.ablations.claims import BOTH_ADAPTERS, Leg, Variant
from laboratory.ablations.rows import training_rows
from laboratory.world.backbones import Phases, is_of_a_connector
from laboratory.world.teachers import ConnectorTeacher
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion import LionProcessor
from trainers import LionSFTConfig, LionSFTTrainer
from trainers.atomic import atomic_directory
from trainers.precision import has_fast_bfloat16


logger = logging.getLogger(__name__)

BATCH = 64
"""Samples of a step."""


class Trainings:
    """
    The trainings of one seed.

    Args:
        base (`Path`): Directory of a finished stage 0 (`lion train stage0`): its language model and tower are the
            frozen parts of every variant, its pretrained connectors (which have not learnt to answer) the start.
        directory (`Path`): Where models go.
        seed (`int`): Of adapters, of new connectors and of the data.
        steps (`int`): Optimiser steps of a leg of length 1, 64 samples each.
        connector_steps (`int`): Optimiser steps of connectors that are pretrained anew, 64 pictures each.
        bottleneck_size (`int`): Of an adapter.
    """

    def __init__(
        self, base: Path, directory: Path, seed: int, steps: int, connector_steps: int, bottleneck_size: int = 16
    ):
        self.base, self.directory, self.seed, self.steps = base, directory, seed, steps
        self.connector_steps, self.bottleneck_size = connector_steps, bottleneck_size
        self.processor = LionProcessor.from_pretrained(base / "processor")

    def train(self, variant: Variant) -> Path:
        """The directory of the variant's model."""
        directory = self._start(variant.depths)
        for number, leg in enumerate(variant.legs):
            directory = self._leg(directory, leg, number)
        return directory

    def _start(self, depths: str | None) -> Path:
        directory = self.directory / (depths or "start")
        if depths is None:
            _once(directory, lambda: self._with_adapters(self._base("connectors", "places")))
        else:
            _once(directory, lambda: self._with_adapters(self._new_connectors(depths)))
        return directory

    def _base(self, *phases: str) -> LionForConditionalGeneration:
        run = Phases(self.base, {}, 0, has_fast_bfloat16(), 1)
        lion, _ = run.build_lion()
        run.load(lion, *phases)
        return lion

    def _new_connectors(self, depths: str) -> LionForConditionalGeneration:
        run = Phases(self.base, {"connectors": self.connector_steps}, 0, has_fast_bfloat16(), 250)
        lion = self._base("places", "tower")
        config = lion.config
        if depths == "last":
            config.aggregator_config.context_layers = [config.aggregator_config.query_layer] * len(
                config.aggregator_config.context_layers
            )
        learnt = lion.state_dict()
        set_seed(self.seed)
        lion = LionForConditionalGeneration(LionConfig.from_dict(config.to_dict()))
        torch.nn.init.normal_(lion.query_tokens.weight, std=0.5)
        lion.load_state_dict(
            {name: value for name, value in learnt.items() if not is_of_a_connector(name)}, strict=False
        )
        again = replace(run, output_dir=self.directory / f"{depths}_connectors")
        if not again.is_finished("connectors"):
            teacher = ConnectorTeacher(lion, run.build_lion()[1])
            again.train("connectors", teacher, lion, run.instructions("connectors", BATCH, 1, True), is_of_a_connector)
        lion.load_state_dict(again.weights("connectors"))
        return lion

    def _with_adapters(self, base: LionForConditionalGeneration) -> LionForConditionalGeneration:
        config = copy.deepcopy(base.config).to_dict()
        config["adapter_config"].update(adapters=list(BOTH_ADAPTERS), bottleneck_size=self.bottleneck_size)
        set_seed(self.seed)
        lion = LionForConditionalGeneration(LionConfig.from_dict(config))
        missing, unexpected = lion.load_state_dict(base.state_dict(), strict=False)
        if unexpected or not all(".adapter." in name for name in missing):
            raise RuntimeError(f"the base does not fit: missing {missing}, unexpected {unexpected}")
        lion.generation_config.update(num_beams=1, max_new_tokens=48, repetition_penalty=1.0)
        return lion

    def _leg(self, start: Path, leg: Leg, number: int) -> Path:
        directory = start / leg.name
        _once(directory, lambda: self._train(start, leg, number, directory.with_name(f"{directory.name}.run")))
        return directory

    def _train(self, start: Path, leg: Leg, number: int, run: Path) -> LionForConditionalGeneration:
        model = LionForConditionalGeneration.from_pretrained(start)
        if leg.routing == "shared":
            share_adapters(model)
        leg.stage.freeze(model)
        steps = self.steps * leg.length
        args = LionSFTConfig(
            output_dir=str(run),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=3e-4,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 10),
            weight_decay=0.02,
            seed=self.seed,
            save_steps=100,
            save_total_limit=1,
            logging_steps=10,
            eval_strategy="no",
            image_augmentation=False,
            plots=False,
            bf16=has_fast_bfloat16(),
            use_cpu=not torch.cuda.is_available(),
        )
        rows = training_rows(leg.stage.levels, steps * BATCH, self.seed, number, leg.tags)
        trainer = LionSFTTrainer(model, args, train_dataset=rows, processing_class=self.processor)
        trainer.train(resume_from_checkpoint=get_last_checkpoint(run) if run.is_dir() else None)
        model.set_active_branches(model.config.visual_branches)
        return model


def share_adapters(model: LionForConditionalGeneration) -> None:
    """Fix every router at one for all adapters and tasks: together they are one adapter that all tasks share."""
    for name, parameter in model.named_parameters():
        if name.endswith(".router_ratios"):
            torch.nn.init.ones_(parameter)


def _once(directory: Path, make: Callable[[], LionForConditionalGeneration]) -> None:
    """Save what `make` gives as `directory`, unless it is there; an interrupted attempt leaves nothing of that name."""
    if (directory / "config.json").is_file():
        return
    logger.info("%s", directory)
    model = make()
    with atomic_directory(directory) as partial:
        model.save_pretrained(partial)
    shutil.rmtree(directory.with_name(f"{directory.name}.run"), ignore_errors=True)
