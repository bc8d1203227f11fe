"""From the base to a trained variant, leg by leg; what two variants have in common is trained once."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers.trainer_utils import get_last_checkpoint, set_seed

from configuration_lion import LionConfig
from laboratory.claims.claims import BOTH_ADAPTERS, Leg, Variant
from laboratory.claims.conflict import CONFLICT, GradientCosines, share_adapters
from laboratory.claims.rows import draw_blurred, tagger_tags, training_part
from laboratory.claims.tower import train_image_level_tower
from laboratory.world.batches import draw
from laboratory.world.feature_cache import NumberedCollator, kept_features, use_features, use_images
from laboratory.world.scene import SPLITS, Scene
from laboratory.world.staged import StagedPhases, start_projection
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionProcessor
from trainers import LionSFTConfig, LionSFTTrainer
from trainers.atomic import atomic_directory


logger = logging.getLogger(__name__)

BATCH = 32
"""Samples of a step."""

_RIDGE_SCENES = SPLITS["train"][940_000_000:940_001_500]
_PLAIN_WORD = "▁image"


@dataclass(frozen=True)
class Start:
    """
    How training begins.

    Attributes:
        draw: How the tower's images are drawn.
        blocks: Tower blocks that the aggregator queries and reads, of a tower that was trained on image-level targets;
            `None` for the base's own tower and blocks.
        late: Whether only the last two blocks of that tower were trained so, and the others are the base's.
    """

    draw: Callable = draw
    blocks: tuple[int, ...] | None = None
    late: bool = False


STARTS = {
    "sharp": Start(),
    "blurred": Start(draw_blurred),
    "depths: last, middle, early": Start(blocks=(5, 3, 1)),
    "depths: last": Start(blocks=(5, 5, 5)),
    "depths: middle": Start(blocks=(3, 3, 3)),
    "late-depths: last, middle, early": Start(blocks=(5, 3, 1), late=True),
    "late-depths: last": Start(blocks=(5, 5, 5), late=True),
    "late-depths: middle": Start(blocks=(3, 3, 3), late=True),
}
"""The starts that variants name."""


class Trainings:
    """
    The trainings of one seed.

    Args:
        base (`Path`): Directory of a finished stage 0 ([`~laboratory.world.staged.pretrain_staged_base`]).
        output (`Path`): Where models and features go.
        seed (`int`): Of the adapters and of the data.
        scale (`float`): How many samples, as a share of those of [`~laboratory.claims.rows.PARTS`].
        tower_steps (`int`): Optimiser steps of the tower that is trained on image-level targets.
    """

    def __init__(self, base: Path, output: Path, seed: int, scale: float = 1.0, tower_steps: int = 1200):
        self.base, self.output, self.seed, self.scale = base, output, seed, scale
        self.tower_steps = tower_steps
        self.features = output / "features"
        self.directory = output / f"seed{seed}"

    @cached_property
    def processor(self) -> LionProcessor:
        """The base's processor."""
        return LionProcessor.from_pretrained(self.base / "base")

    @cached_property
    def tagger(self) -> RamForImageTagging:
        """The base's tagger."""
        return RamForImageTagging.from_pretrained(self.base / "base" / "tagger").eval()

    def directories(self, variant: Variant) -> list[Path]:
        """Where the variant's models are: before training, then after each leg."""
        found = [self.directory / f"{variant.start.replace(': ', '-').replace(', ', '-')}-{variant.bottleneck_size}"]
        for leg in variant.legs:
            found.append(found[-1] / f"{leg.name}-{variant.budget:g}")
        return found

    def train(self, variant: Variant) -> Path:
        """The directory of the variant's model."""
        start, *directories = self.directories(variant)
        _once(start, lambda: self._start(variant))
        for leg, directory in zip(variant.legs, directories):
            _once(directory, partial(self._train, start, directory, leg, variant))
            start = directory
        return start

    def _start(self, variant: Variant) -> LionForConditionalGeneration:
        base = LionForConditionalGeneration.from_pretrained(self.base / "base")
        start = STARTS[variant.start]
        if start.blocks is not None:
            base = self._on_image_level_tower(base, start.blocks, start.late)
        config = copy.deepcopy(base.config).to_dict()
        config["adapter_config"].update(adapters=list(BOTH_ADAPTERS), bottleneck_size=variant.bottleneck_size)
        set_seed(self.seed)
        lion = LionForConditionalGeneration(LionConfig.from_dict(config))
        missing, unexpected = lion.load_state_dict(base.state_dict(), strict=False)
        if unexpected or not all(".adapter." in name for name in missing):
            raise RuntimeError(f"the base does not fit: missing {missing}, unexpected {unexpected}")
        lion.generation_config.update(num_beams=1, max_new_tokens=32, repetition_penalty=1.0)
        return lion

    def _on_image_level_tower(
        self, base: LionForConditionalGeneration, blocks: tuple[int, ...], late: bool
    ) -> LionForConditionalGeneration:
        config = base.config.to_dict()
        config["aggregator_config"].update(query_layer=blocks[0], context_layers=list(blocks[1:]))
        lion = LionForConditionalGeneration(LionConfig.from_dict(config))
        lion.load_state_dict(base.state_dict())
        directory = self.output / ("late_tower" if late else "tower")
        weights = train_image_level_tower(self.base, directory, self.tower_steps, late=late)
        lion.vision_model.load_state_dict(weights)
        phases = StagedPhases(self.base, {}, 0, False, 1)
        _, vocabulary = phases.build_student()
        phases.check_symbols("literacy", vocabulary)
        start_projection(lion, vocabulary, _RIDGE_SCENES)
        return lion

    def _rows(self, leg: Leg, budget: float) -> tuple[datasets.Dataset, list[Scene]]:
        rows: list[dict[str, Any]] = []
        scenes: list[Scene] = []
        tags_of = partial(tagger_tags, self.tagger) if "tagged" in leg.parts else None
        for name in leg.parts:
            made, shown = training_part(name, self.seed, self.scale, tags_of)
            for row in made[: round(len(made) * budget)]:
                tags = None if leg.tags == "none" else row["tags"]
                rows.append({**row, "image": row["image"] + len(scenes), "tags": tags})
            scenes += shown
        return datasets.Dataset.from_list(rows), scenes

    def _train(self, start: Path, directory: Path, leg: Leg, variant: Variant) -> LionForConditionalGeneration:
        run = directory.with_name(f"{directory.name}.run")
        model = LionForConditionalGeneration.from_pretrained(start)
        if leg.shared:
            share_adapters(model)
        if leg.tags == "plain":
            word = self.processor.tokenizer.convert_tokens_to_ids(_PLAIN_WORD)
            model.soft_prompt.weight.data.copy_(model.get_input_embeddings().weight[word])
        leg.stage.freeze(model)
        rows, scenes = self._rows(leg, variant.budget)
        use_features(model, kept_features(model, scenes, self.features, STARTS[variant.start].draw))
        steps = len(rows) // BATCH
        args = LionSFTConfig(
            output_dir=str(run),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=leg.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 20,
            weight_decay=0.02,
            seed=self.seed,
            save_steps=200,
            save_total_limit=1,
            logging_steps=20,
            eval_strategy="no",
            image_augmentation=False,
            plots=False,
            disable_tqdm=True,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
        )
        collate = NumberedCollator(self.processor)
        # Five times the gradients of 512 samples, which takes longer than a short training.
        measured = len(leg.parts) > 1 and variant.budget == 1
        cosines = GradientCosines(model, collate, rows, steps, run) if measured else None
        trainer = _RouterRateTrainer(
            model,
            args,
            train_dataset=rows,
            processing_class=self.processor,
            data_collator=collate,
            callbacks=[cosines] if cosines else None,
        )
        trainer.router_rate = leg.router_rate
        trainer.train(resume_from_checkpoint=get_last_checkpoint(run) if run.is_dir() else None)
        use_images(model)
        model.set_active_branches(leg.stage.visual_branches)
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        logger.info("%s: last losses %s", leg.name, losses[-3:])
        return model


class _RouterRateTrainer(LionSFTTrainer):
    """Has a learning rate of their own for the routers, a multiple of the others'."""

    router_rate = 1.0

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """As the parent's, the routers in a group of their own."""
        groups = super().parameter_groups(model)
        routers = [p for name, p in model.named_parameters() if p.requires_grad and name.endswith(".router_ratios")]
        if not routers or self.router_rate == 1:
            return groups
        own = set(map(id, routers))
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        rate = self.args.learning_rate * self.router_rate
        return [*(g for g in groups if g["params"]), {"params": routers, "lr": rate, "weight_decay": 0.0}]


def _once(directory: Path, make: Callable[[], LionForConditionalGeneration]) -> None:
    """Save what `make` gives as `directory`, unless it is there; an interrupted attempt leaves nothing of that name."""
    if (directory / "config.json").is_file():
        return
    logger.info("%s", directory)
    model = make()
    run = directory.with_name(f"{directory.name}.run")
    with atomic_directory(directory) as partial_directory:
        model.save_pretrained(partial_directory)
        if (run / CONFLICT).is_file():
            shutil.copy(run / CONFLICT, partial_directory / CONFLICT)
    shutil.rmtree(run, ignore_errors=True)
