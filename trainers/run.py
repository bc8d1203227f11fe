"""The stages of a recipe, one after the other: from the base model to a self-contained checkpoint."""

import dataclasses
import gc
import json
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import set_seed

from configuration_lion import LEVELS
from modeling_lion import LionTagger, save_lion
from modeling_lion.extras_lion import needs_extra
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.peft_lion import fold_adapters, initialize_adapter
from processing_lion import LionProcessor
from trainers.atomic import atomic_directory
from trainers.datasets_lion import build_dataset, image_files, load_function
from trainers.files import find_last_checkpoint, read_result, refuse_earlier_run, write_whole
from trainers.precision import has_fast_bfloat16
from trainers.recipe import Recipe, SourceRecipe
from trainers.rows import BadRows
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import STAGES, Stage, get_stage


with needs_extra("train", "trainers.run"):
    import datasets
    from accelerate import PartialState
    from peft import PeftModel, get_peft_model


logger = logging.getLogger(__name__)

STAGE_ZERO = "stage0"
FINAL = "final"
STAGE_RESULT = "stage_result.json"


def run_all(recipe: Recipe, resume: bool = False) -> Path:
    """
    Run every stage that the recipe has data for, and write the final checkpoint.

    Args:
        recipe ([`Recipe`]): What to do.
        resume (`bool`): Whether to go on where an earlier run stopped: finished stages are left as they are, an
            interrupted one continues at its last checkpoint.

    Returns:
        `Path`: directory of the final checkpoint (see [`write_final`]).
    """
    stages = [stage for stage in STAGES.values() if recipe.sources(stage)]
    if not stages:
        raise ValueError("The recipe has no stage with data.")
    for stage in stages:
        run_stage(recipe, stage.name, resume=resume)
    return write_final(recipe, stages[-1].name)


def run_stage(recipe: Recipe, name: str, resume: bool = False) -> Path:
    """
    Run one stage on the results of those before it.

    Args:
        recipe ([`Recipe`]): What to do.
        name (`str`): `"stage0"`, `"stage1"`, `"stage2"` or `"stage3"`.
        resume (`bool`): As in [`run_all`].

    Returns:
        `Path`: its directory, with `adapter_config.json`, `adapter_model.safetensors`, `loss.png`, `routers.png` (stage
        3), the checkpoints, and `stage_result.json` once it is finished.

    Raises:
        ValueError: an earlier stage is missing, data cannot be used, or there is already a result and not `resume`.
    """
    if name == STAGE_ZERO:
        return Path(_base_model(recipe, resume))
    stage = get_stage(name)
    directory = Path(recipe.output_dir) / stage.name
    if resume and read_result(directory / STAGE_RESULT) is not None:
        logger.info("%s is finished already: %s.", stage.name, directory)
        return directory
    args = training_arguments(recipe, stage)
    last_checkpoint = checkpoint_to_resume(args, resume)

    set_seed(args.seed)
    base = _base_model(recipe, resume=True)
    processor = LionProcessor.from_pretrained(recipe.processor or base)
    bad_rows = BadRows(recipe.bad_rows, directory / "bad_rows.jsonl", args.max_bad_row_share)
    train_dataset, eval_dataset = _build_datasets(recipe, stage, args, base, bad_rows)
    model = stage_model(recipe, stage, base)

    trainer = LionSFTTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset or None,
        processing_class=processor,
        bad_rows=bad_rows,
    )
    train_stage(trainer, recipe, stage, last_checkpoint)
    del trainer, model, train_dataset, eval_dataset
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return directory


def checkpoint_to_resume(args: LionSFTConfig, resume: bool) -> str | None:
    """
    The checkpoint at which a stage that is not finished goes on; `None` for one that begins.

    Raises:
        ValueError: there is an earlier run and not `resume`.
    """
    if not resume:
        refuse_earlier_run(args.output_dir, STAGE_RESULT)
    return find_last_checkpoint(args.output_dir, args.world_size)


def train_stage(trainer: LionSFTTrainer, recipe: Recipe, stage: Stage, checkpoint: str | None) -> None:
    """Train, and write adapter, state, plots, recipe and, last of all, `stage_result.json`."""
    directory = Path(trainer.args.output_dir)
    state = PartialState()
    if state.is_main_process:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / "recipe.json", recipe.to_json())
    if checkpoint is not None:
        logger.info("%s continues at %s.", stage.name, checkpoint)
    output = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    if state.is_main_process:
        if trainer.args.plots:
            trainer.plot()
        result = {
            "stage": stage.name,
            "steps": trainer.state.global_step,
            "metrics": output.metrics,
            "bad_rows": trainer.bad_rows.summary(),
        }
        for source, count in result["bad_rows"].items():
            logger.warning("%d rows of %r were unusable; see %s.", count, source, trainer.bad_rows.path)
        # Written last: it says that all the rest is there.
        write_whole(directory / STAGE_RESULT, json.dumps(result, indent=2))
    state.wait_for_everyone()


def training_arguments(recipe: Recipe, stage: Stage) -> LionSFTConfig:
    """
    The stage's settings. A recipe's `bf16: auto` means bfloat16 where the device has instructions for it.

    Raises:
        ValueError: a field that `LionSFTConfig` does not have, or a value it refuses; stage and field are named.
    """
    fields = recipe.training_arguments(stage)
    known = {field.name for field in dataclasses.fields(LionSFTConfig)}
    for field in ("output_dir", "stage"):
        if field in fields:
            raise ValueError(f"Stage {stage.name}: `training.{field}` is set by the stage itself.")
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"Stage {stage.name}: `training` has {unknown}, which LionSFTConfig does not know.")
    if not recipe.sources(stage, evaluation=True):
        fields["eval_strategy"] = "no"
    if fields.get("bf16") == "auto":
        # transformers refuses bfloat16 where there is no GPU, unless it is told that none is wanted.
        fields["use_cpu"] = bool(fields.get("use_cpu")) or not torch.cuda.is_available()
        fields["bf16"] = has_fast_bfloat16(fields["use_cpu"])
    defaults = {"seed": recipe.seed, "bad_rows": recipe.bad_rows, "run_name": stage.name, "own_streams": True}
    try:
        return LionSFTConfig(output_dir=str(Path(recipe.output_dir) / stage.name), **{**defaults, **fields})
    except (TypeError, ValueError) as error:
        raise ValueError(f"Stage {stage.name}: `training` is not right: {error}") from error


def stage_model(recipe: Recipe, stage: Stage, base: str | Path) -> Any:
    """The base model with this stage's adapters (a `PeftModel`), and in them what earlier stages learnt."""
    model = _load_base(recipe, base)
    set_seed(recipe.seed)
    model = get_peft_model(model, stage.peft_config(**recipe.adapters))
    earlier = {f"start{i}": directory for i, directory in enumerate(_start_from(recipe, stage))}
    for name, directory in earlier.items():
        model.load_adapter(directory, name)
    initialize_adapter(model, model.active_adapter, list(earlier))
    for name in earlier:
        model.delete_adapter(name)
    return model


def write_final(recipe: Recipe, name: str = "stage3") -> Path:
    """
    Fold a stage's result into a checkpoint that needs neither PEFT nor this recipe: `output_dir/final`, with its
    processor, and the tagger in `tagger/` if there is one.
    """
    final = Path(recipe.output_dir) / FINAL
    state = PartialState()
    if state.is_main_process:
        base = _base_model(recipe, resume=True)
        model = _load_base(recipe, base)
        model = fold_adapters(PeftModel.from_pretrained(model, Path(recipe.output_dir) / name))
        tagger_source = tagger_of(recipe, base)
        tagger = None if tagger_source is None else LionTagger.from_pretrained(tagger_source)
        with atomic_directory(final, replace=True) as partial:
            save_lion(partial, model, LionProcessor.from_pretrained(recipe.processor or base), tagger)
        logger.info("Wrote the checkpoint %s.", final)
    state.wait_for_everyone()
    return final


def _base_model(recipe: Recipe, resume: bool) -> Path | str:
    """Where the base model is; stage 0 makes it first if there is one (and returns at once if it has)."""
    if recipe.stage0 is None:
        if recipe.model is None:
            raise ValueError("The recipe has neither `model` nor `stage0`.")
        return recipe.model
    marker = Path(recipe.output_dir) / STAGE_ZERO / STAGE_RESULT
    earlier = read_result(marker) if resume else None
    if earlier is not None:
        base = Path(earlier["model"])
        if base.is_dir():  # unless the run has been moved
            return base
    state = PartialState()
    if state.is_main_process:
        function = load_function(recipe.stage0.function)
        path = function(output_dir=marker.parent, resume=resume, **recipe.stage0.kwargs)
        marker.parent.mkdir(parents=True, exist_ok=True)
        write_whole(marker, json.dumps({"stage": STAGE_ZERO, "model": str(path)}, indent=2))
    state.wait_for_everyone()
    return Path(json.loads(marker.read_text(encoding="utf-8"))["model"])


def _load_base(recipe: Recipe, base: str | Path) -> LionForConditionalGeneration:
    model = LionForConditionalGeneration.from_pretrained(base, **recipe.model_kwargs)
    if model.config.adapter_config.adapters:
        raise ValueError(
            f"The base model {str(base)!r} has the adapters {model.config.adapter_config.adapters} already; the stages "
            "add their own to a model without (`adapter_config.adapters` = [])."
        )
    return model


def _start_from(recipe: Recipe, stage: Stage) -> list[Path]:
    """Directories of the results that a stage takes over, in the order of the stages."""
    given = recipe.stages[stage.name].start_from if stage.name in recipe.stages else None
    if given is not None:
        return [Path(path) for path in given]
    directories = []
    for name in stage.starts_from:
        directory = Path(recipe.output_dir) / name
        if read_result(directory / STAGE_RESULT) is not None:
            directories.append(directory)
        elif recipe.sources(STAGES[name]):
            raise ValueError(
                f"{stage.name} starts from {name}, which is not finished in {directory}: run it first, or name "
                f"directories in `stages.{stage.name}.start_from`."
            )
        else:
            logger.warning("%s starts without %s, for which the recipe has no data.", stage.name, name)
    return directories


def _build_datasets(
    recipe: Recipe, stage: Stage, args: LionSFTConfig, base: str | Path, bad_rows: BadRows
) -> tuple[Any, dict[str, Any]]:
    sources = recipe.sources(stage)
    if not sources:
        raise ValueError(f"The recipe has no data for {stage.name} (`stages.{stage.name}.data`).")
    for source in sources:
        if source.level in LEVELS and source.level not in stage.levels:
            logger.warning(
                "%s is meant for %s data, but %r is %s.", stage.name, stage.levels, source.name, source.level
            )

    def tag_rows(source: SourceRecipe, image_rows: datasets.Dataset) -> Sequence[Any]:
        return tag_images_of(recipe, base, source, image_rows)

    train = build_dataset(
        sources,
        args.data_seed,
        bad_rows,
        tag_rows,
        process_index=args.process_index,
        num_processes=args.world_size,
    )
    evaluation = {
        source.name: build_dataset([source], args.data_seed, bad_rows, tag_rows, training=False)
        for source in recipe.sources(stage, evaluation=True)
    }
    return train, evaluation


def tagger_of(recipe: Recipe, base: str | Path) -> str | Path | None:
    """The recipe's tagger, or the one that a local base brings in `tagger/`."""
    if recipe.tagger is not None:
        return recipe.tagger
    return Path(base) / "tagger" if (Path(base) / "tagger" / "config.json").is_file() else None


def tag_images_of(
    recipe: Recipe, base: str | Path, source: SourceRecipe, image_rows: datasets.Dataset
) -> list[list[str] | None]:
    """
    Tags of all images, kept in `output_dir/tags` for later stages and resumed runs. An image that is a file is tagged
    once, whatever rows and sources show it; Visual Genome has fifty rows an image.
    """
    from trainers.resumable_jsonl import ResumableJsonl
    from trainers.tagging import ImageColumn, ImageFiles, Tagger, tag_images

    tagger_source = tagger_of(recipe, base)
    if tagger_source is None:
        raise ValueError(f"Source {source.name!r} asks for the tagger, but the recipe names no `tagger`.")
    files = image_files(image_rows)
    if files is not None:
        key = zlib.crc32(str(tagger_source).encode())
        path = Path(recipe.output_dir) / "tags" / f"files-{key:08x}.jsonl"
        tag_images(Tagger.from_pretrained(tagger_source), ImageFiles(dict.fromkeys(files)), path)
        tags = {record[ImageFiles.key]: record["tags"] for record in ResumableJsonl(path, ImageFiles.key).records()}
        return [tags.get(file) for file in files]
    origin = [source.path, source.builder, source.builder_kwargs, source.config, source.split, source.revision]
    key = zlib.crc32(json.dumps([*origin, source.data_files, len(image_rows), str(tagger_source)]).encode())
    path = Path(recipe.output_dir) / "tags" / f"{source.name}-{key:08x}.jsonl"
    images = ImageColumn(image_rows, "image")
    tag_images(Tagger.from_pretrained(tagger_source), images, path)
    tags = {record[images.key]: record["tags"] for record in ResumableJsonl(path, images.key).records()}
    return [tags.get(row) for row in range(len(image_rows))]
