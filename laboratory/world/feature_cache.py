"""
The stages on features that the frozen tower has computed once.

    python -m laboratory.world.feature_cache --config laboratory/recipes/nano_staged.yaml

does what `lion train all` does with a recipe whose data are the world's, in less time: every image is drawn and goes
through the tower once, not once for each question and epoch, and all cores draw. Rows, their order, optimiser and
results are the same but for rounding, and either of the two goes on where the other stopped.
"""

from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import set_seed

from laboratory.world.batches import draw, normalize
from laboratory.world.dataset import generate_rows, world_scenes
from laboratory.world.scene import Scene, sample_scene
from laboratory.world.side_by_side import side_by_side
from modeling_lion.modeling_lion import LionForConditionalGeneration, LionVisionModel
from processing_lion import LionProcessor
from processing_lion.image_processing_lion import CLIP_MEAN, CLIP_STD
from trainers.atomic import atomic_file
from trainers.files import read_result
from trainers.recipe import Recipe, SourceRecipe
from trainers.run import (
    STAGE_RESULT,
    checkpoint_to_resume,
    run_stage,
    stage_model,
    train_stage,
    training_arguments,
    write_final,
)
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import STAGES, Stage


logger = logging.getLogger(__name__)

_BUILDER = "laboratory.world.dataset:build_world"
_BATCH = 64


class CachedVisionModel(LionVisionModel):
    """
    A frozen tower that takes numbers of images, `(B, 1)`, in place of the images, and looks up its blocks' outputs.
    """

    # (Not annotated: transformers evaluates a class's annotations, which it can't in a process that was spawned.)
    features = {}  # type: Mapping[int, torch.Tensor]

    def forward(self, pixel_values, kept_blocks=(), interpolate_pos_encoding=False):
        images = pixel_values[:, 0].long()
        dtype, device = self.post_layernorm.weight.dtype, images.device
        if next(iter(self.features.values())).device != device:
            self.features = {block: values.to(device) for block, values in self.features.items()}
        kept = {block: self.features[block][images].to(dtype) for block in kept_blocks}
        return self.post_layernorm(self.features[len(self.encoder.layers) - 1][images].to(dtype)), kept


@torch.no_grad()
def tower_features(
    lion: LionForConditionalGeneration,
    scenes: Sequence[Scene],
    dtype: torch.dtype = torch.bfloat16,
    draw: Callable[[Sequence[Scene]], np.ndarray] = draw,
) -> dict[int, torch.Tensor]:
    """
    What Q-Former and aggregator read of the tower.

    Args:
        lion ([`LionForConditionalGeneration`]): The model.
        scenes (`Sequence[Scene]`): What the images show.
        dtype (`torch.dtype`): Type that the features are kept in.
        draw (`Callable`): A function of a module that draws scenes, as [`~laboratory.world.batches.draw`] does.

    Returns:
        `dict[int, torch.Tensor]`: By block, `(num_scenes, num_patches + 1, hidden_size)` without a norm.

    Raises:
        ValueError: the model takes features in place of images ([`use_features`]).
    """
    if isinstance(lion.vision_model, CachedVisionModel):
        raise ValueError("the model takes features in place of images: call `use_images` first")
    config, tower = lion.config, lion.vision_model
    blocks = {
        len(tower.encoder.layers) - 1,
        config.aggregator_config.query_layer,
        *config.aggregator_config.context_layers,
    }
    parts: dict[int, list[torch.Tensor]] = {block: [] for block in blocks}
    for images in side_by_side(draw, [(scenes[start : start + _BATCH],) for start in range(0, len(scenes), _BATCH)]):
        pixels = normalize(images, CLIP_MEAN, CLIP_STD).to(tower.device)
        for block, values in tower(pixels, kept_blocks=blocks)[1].items():
            parts[block].append(values.to(dtype).cpu())
    return {block: torch.cat(values) for block, values in parts.items()}


def kept_features(
    lion: LionForConditionalGeneration,
    scenes: Sequence[Scene],
    directory: Path,
    draw: Callable[[Sequence[Scene]], np.ndarray] = draw,
) -> dict[int, torch.Tensor]:
    """
    [`tower_features`], from a file in `directory` if they were computed before for this tower, of its blocks that are
    read, and these scenes.
    """
    known = zlib.crc32(repr([(scene.seed, scene.objects) for scene in scenes]).encode())
    read = sorted({lion.config.aggregator_config.query_layer, *lion.config.aggregator_config.context_layers})
    known = zlib.crc32(f"{read} {draw.__name__}".encode(), known)
    for name, value in lion.vision_model.state_dict().items():
        if "post_layernorm" not in name:
            known = zlib.crc32(value.float().cpu().numpy().tobytes(), known)
    path = directory / f"{known:08x}.safetensors"
    with PartialState().main_process_first():
        if not path.is_file():
            logger.info("%d images through the tower.", len(scenes))
            directory.mkdir(parents=True, exist_ok=True)
            features = {str(block): values for block, values in tower_features(lion, scenes, draw=draw).items()}
            with atomic_file(path) as partial:
                save_file(features, partial)
    return {int(block): values for block, values in load_file(path).items()}


def use_features(lion: LionForConditionalGeneration, features: Mapping[int, torch.Tensor]) -> None:
    """Let a model take numbers of images, rows of `features`, in place of images; changed in place."""
    trained = [name for name, value in lion.vision_model.named_parameters() if value.requires_grad]
    if any("post_layernorm" not in name for name in trained):
        raise ValueError(f"features of a tower that is trained cannot be kept: {', '.join(trained)}")
    lion.vision_model.__class__ = CachedVisionModel
    lion.vision_model.features = features


def use_images(lion: LionForConditionalGeneration) -> None:
    """Undo [`use_features`]."""
    lion.vision_model.__class__ = LionVisionModel
    lion.vision_model.__dict__.pop("features", None)


class NumberedCollator:
    """
    Makes a batch of rows whose `image` is the number of an image, with labels if they have a `completion`.

    Args:
        processor ([`LionProcessor`]): For the texts.
    """

    def __init__(self, processor: LionProcessor):
        self.processor = processor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.processor(
            text=[row["prompt"] for row in rows],
            tags=[None if row["tags"] is None else ", ".join(row["tags"]) for row in rows],
            level=[row["level"] for row in rows],
            answers=[row["completion"] for row in rows] if "completion" in rows[0] else None,
            return_tensors="pt",
        )
        return {**batch, "pixel_values": torch.tensor([[row["image"]] for row in rows])}


def numbered_rows(sources: Sequence[SourceRecipe]) -> tuple[datasets.Dataset, list[Scene]]:
    """The rows of a stage in the order of `lion train`, and the scenes that their numbers mean."""
    rows: list[dict[str, Any]] = []
    scenes: list[Scene] = []
    for source in sources:
        kept: dict[str, Any] = {"name": source.name, "builder_kwargs": source.builder_kwargs, "tags": source.tags}
        if source != SourceRecipe(**kept, builder=_BUILDER, level="column"):
            raise ValueError(
                f"source {source.name!r} must be `builder: {_BUILDER}` with `level: column` and nothing but `tags`"
            )
        kwargs = dict(source.builder_kwargs)
        seeds, options = world_scenes(**kwargs)
        numbers = {seed: len(scenes) + index for index, seed in enumerate(seeds)}
        calls = [(seeds[start : start + _BATCH], options) for start in range(0, len(seeds), _BATCH)]
        for made, shown in side_by_side(_rows_and_scenes, calls):
            scenes += shown
            for row in made:
                row["image"] = numbers[row["image"]]
                if source.tags != "column":
                    row["tags"] = None
            rows += made
    return datasets.Dataset.from_list(rows), scenes


def _rows_and_scenes(seeds: range, options: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Scene]]:
    """Rows whose `image` is the scene's seed, and the scenes."""
    scenes = [sample_scene(seed, options["num_objects"], options["most_objects"]) for seed in seeds]
    rows = [
        {"image": row["seed"], **{name: row[name] for name in ("prompt", "completion", "tags", "level")}}
        for row in generate_rows(seeds, **options, images=False)
    ]
    return rows, scenes


def run_cached_stage(recipe: Recipe, stage: Stage, resume: bool = False) -> Path:
    """[`~trainers.run.run_stage`] on cached features, without evaluation."""
    directory = Path(recipe.output_dir) / stage.name
    if resume and read_result(directory / STAGE_RESULT) is not None:
        return directory
    args = training_arguments(recipe, stage)
    checkpoint = checkpoint_to_resume(args, resume)
    args.eval_strategy = "no"
    set_seed(args.seed)
    base = run_stage(recipe, "stage0", resume=True) if recipe.stage0 else str(recipe.model)
    processor = LionProcessor.from_pretrained(base)
    rows, scenes = numbered_rows(recipe.sources(stage))
    model = stage_model(recipe, stage, base)
    lion = model.get_base_model()
    use_features(lion, kept_features(lion.to(args.device), scenes, Path(recipe.output_dir) / "features"))
    trainer = LionSFTTrainer(
        model, args, train_dataset=rows, processing_class=processor, data_collator=NumberedCollator(processor)
    )
    train_stage(trainer, recipe, stage, checkpoint)
    return directory


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train a recipe of the world on features that are computed once.")
    parser.add_argument("--config", required=True, help="the recipe")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), metavar="STAGE")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the recipe's values")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = Recipe.load(options.config, options.overrides)
    for name in options.stages:
        run_cached_stage(recipe, STAGES[name], options.resume)
    if tuple(options.stages) == tuple(STAGES):
        write_final(recipe)


if __name__ == "__main__":
    main()
