"""
Fine-tuning of a finished LION on somebody's own data, and the figures of the tuned model beside the base's.

Three methods: `adapters` goes on where stage 3 ended (adapters, routers, connectors, soft prompt), `lora` trains LoRA
on the LLM beside LION's parts, `full` trains everything but the vision tower. The first two write a PEFT adapter, the
last a checkpoint.
"""

import dataclasses
import gc
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers.trainer_utils import set_seed

from modeling_lion import LionTagger, save_lion
from modeling_lion.hub_lion import TAGGER_SUBFOLDER
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.peft_lion import LionAdapterConfig, fold_adapters
from processing_lion import LionProcessor, parse_boxes
from trainers.atomic import atomic_directory
from trainers.datasets_lion import build_dataset
from trainers.files import find_last_checkpoint, read_result, refuse_earlier_run, write_whole
from trainers.precision import has_fast_bfloat16
from trainers.recipe import FinetuneRecipe, Recipe, SourceRecipe
from trainers.rehearsal import read_rehearsal, rehearse
from trainers.rows import BadRows
from trainers.run import tag_images_of, tagger_of
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import AGGREGATOR_PARTS, Q_FORMER_PARTS, SOFT_PROMPT


if TYPE_CHECKING:
    from transformers import PretrainedConfig


logger = logging.getLogger(__name__)

RESULT = "finetune_result.json"
REPORT = "report.md"
_BASE_FIGURES = "base_figures.json"
_REHEARSED = "rehearsal.json"
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.1, 200

# Attention and feed-forward layers of the LLM, but nothing inside of LION's adapters.
_LORA_TARGETS = r"language_model\..*\.(q|k|v|o|wi_0|wi_1|wo)"

_TRAINING: Mapping[str, Any] = {
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.0,
    "adam_beta2": 0.999,
    "logging_steps": 10,
    "save_strategy": "steps",
    "save_steps": 0.2,
    "eval_strategy": "no",
    # A crop may take away what an answer speaks of, and nobody can see that in rows of unknown kind.
    "image_augmentation": False,
    "bf16": "auto",
}
_LEARNING_RATES = {"adapters": 2e-3, "lora": 5e-4, "full": 5e-5}
# Where connectors are trained as well: they change what every question sees.
_RATE_OF_CONNECTORS = 5e-4
_MOST_REHEARSED = 20_000


def default_epochs(rows: int) -> int:
    """
    How often rows are seen: 2,000 rows in all, or more with the root of their number, and each once at least. That is
    20 times for 100 rows, four times for 500, twice for 2,000, once for 8,000 and more.
    """
    return max(1, min(60, round(2000 * max(1.0, math.sqrt(rows / 500)) / max(rows, 1))))


def run_finetune(recipe: Recipe, resume: bool = False) -> Path:
    """
    Fine-tune as the recipe's `finetune` says.

    Args:
        recipe ([`Recipe`]): With `finetune` and `model`.
        resume (`bool`): Whether to go on where an earlier run in `output_dir` stopped.

    Returns:
        `Path`: `output_dir`, with the adapter (or the checkpoint), the processor, `report.md`, `finetune_result.json`,
        `loss.png` and the training's checkpoints.

    Raises:
        ValueError: the recipe, the base or the data do not fit, or there is an earlier run and not `resume`.
    """
    plan = recipe.finetune
    if plan is None or recipe.model is None:
        raise ValueError("To fine-tune, a recipe needs `finetune` and `model`, a finished LION.")
    directory = Path(recipe.output_dir)
    if resume and read_result(directory / RESULT) is not None:
        logger.info("The fine-tuning in %s is finished already.", directory)
        return directory
    if not resume:
        refuse_earlier_run(directory, RESULT)

    set_seed(recipe.seed)
    bad_rows = BadRows(recipe.bad_rows, directory / "bad_rows.jsonl", _bad_row_share(recipe, plan))
    state = PartialState()
    train_rows, evaluation = _build_datasets(recipe, plan, bad_rows, state)
    args = finetuning_arguments(recipe, plan, _length(train_rows))
    processor = LionProcessor.from_pretrained(recipe.processor or recipe.model)
    own_rows = _length(train_rows)
    rehearsal = _rehearsal(recipe, plan, processor, train_rows, directory, state)
    if rehearsal is not None:
        train_rows = datasets.concatenate_datasets([train_rows, rehearsal])
    model = finetuned_model(recipe, plan)
    trainer = LionSFTTrainer(
        model,
        args,
        train_dataset=train_rows,
        eval_dataset=evaluation,
        processing_class=processor,
        bad_rows=bad_rows,
    )
    if state.is_main_process:
        write_whole(directory / "recipe.json", recipe.to_json())
    before = _base_figures(trainer, evaluation, directory)
    output = trainer.train(resume_from_checkpoint=find_last_checkpoint(directory, args.world_size) if resume else None)
    after = _figures(trainer, evaluation)
    trainer.save_model()
    trainer.save_state()
    if state.is_main_process:
        _finish_output(recipe, plan, directory)
        if args.plots:
            trainer.plot()
        result = {
            "method": plan.method,
            "model": str(recipe.model),
            "rows": own_rows,
            "rehearsal": _length(rehearsal) or 0,
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "metrics": output.metrics,
            "figures": {name: {"base": before[name], "tuned": after[name]} for name in after},
            "bad_rows": bad_rows.summary(),
        }
        write_whole(directory / REPORT, format_report(result))
        for source, count in result["bad_rows"].items():
            logger.warning("%d rows of %r were unusable; see %s.", count, source, bad_rows.path)
        # Written last: it says that all the rest is there.
        write_whole(directory / RESULT, json.dumps(result, indent=2, default=str))
    state.wait_for_everyone()
    del trainer, model, train_rows
    gc.collect()
    return directory


def format_report(result: Mapping[str, Any]) -> str:
    """The figures of the base and of the tuned model as a Markdown table; a loss of two points or more stands out."""
    rehearsed = result.get("rehearsal")
    beside = f" beside {rehearsed} of what the base answers about their images" if rehearsed else ""
    lines = [
        "# Fine-tuning",
        "",
        f"Method `{result['method']}`, {result['rows'] or 'streamed'} rows{beside}, {result['steps']} steps.",
        "",
        "| data | figure | base | tuned | change |",
        "|---|---|---|---|---|",
    ]
    for name, figures in result["figures"].items():
        for key, tuned in figures["tuned"].items():
            base = figures["base"].get(key)
            change = "" if base is None else f"{tuned - base:+.3f}"
            worse = base is not None and (tuned > base + 0.02 if key == "loss" else tuned < base - 0.02)
            base_text = "–" if base is None else f"{base:.3f}"
            lines.append(f"| {name} | {key} | {base_text} | {tuned:.3f} | {f'**{change}**' if worse else change} |")
    return "\n".join(lines) + "\n"


# --- Settings ---


def finetuning_arguments(recipe: Recipe, plan: FinetuneRecipe, rows: int | None) -> LionSFTConfig:
    """
    The settings: the defaults, then the recipe's `training`, then those of `finetune`.

    Raises:
        ValueError: a field that `LionSFTConfig` does not have, or a value it refuses.
    """
    rate = _LEARNING_RATES[plan.method]
    if "connectors" in plan.trained_parts:
        rate = min(rate, _RATE_OF_CONNECTORS)
    fields: dict[str, Any] = {**_TRAINING, "learning_rate": rate}
    if plan.rehearsal and rows is not None:
        fields["gradient_accumulation_steps"] = 2  # a step holds about as many of the new rows as without
    if rows is not None:
        fields["num_train_epochs"] = default_epochs(rows)
    fields |= {**recipe.training, **plan.training}
    if rows is None and not fields.get("max_steps"):
        raise ValueError("A stream has no end: `finetune.training.max_steps` must say how long to train.")
    known = {field.name for field in dataclasses.fields(LionSFTConfig)}
    unknown = sorted(set(fields) - known)
    if unknown or {"output_dir", "stage"} & set(fields):
        wrong = unknown or sorted({"output_dir", "stage"} & set(fields))
        raise ValueError(f"`finetune.training` has {wrong}, which LionSFTConfig does not know or the run sets itself.")
    if fields.get("bf16") == "auto":
        fields["use_cpu"] = bool(fields.get("use_cpu")) or not torch.cuda.is_available()
        fields["bf16"] = has_fast_bfloat16(fields["use_cpu"])
    defaults = {"seed": recipe.seed, "bad_rows": recipe.bad_rows, "run_name": "finetune", "own_streams": True}
    try:
        return LionSFTConfig(output_dir=recipe.output_dir, **{**defaults, **fields})
    except (TypeError, ValueError) as error:
        raise ValueError(f"`finetune.training` is not right: {error}") from error


def _bad_row_share(recipe: Recipe, plan: FinetuneRecipe) -> float:
    default = next(f.default for f in dataclasses.fields(LionSFTConfig) if f.name == "max_bad_row_share")
    return {**recipe.training, **plan.training}.get("max_bad_row_share", default)


# --- The model ---


def finetuned_model(recipe: Recipe, plan: FinetuneRecipe) -> Any:
    """The base, with what is trained of it (a `PeftModel`, except with the method `full`)."""
    model = load_finished(str(recipe.model), plan.precision, plan.method, recipe.model_kwargs)
    if plan.method == "full":
        for name, parameter in model.named_parameters():
            in_tower = name.startswith("vision_model.") and ".post_layernorm" not in name
            parameter.requires_grad_(not in_tower)
        return model
    set_seed(recipe.seed)
    tuned = get_peft_model(model, finetuning_peft_config(plan, model.config))
    if plan.method == "lora":
        for name, parameter in tuned.named_parameters():
            if re.search(r"\.adapter\.modules_to_save\.", name) and _part_of_mixture(name) not in plan.trained_parts:
                parameter.requires_grad_(False)
    return tuned


def _part_of_mixture(name: str) -> str:
    return "routers" if "router_ratios" in name else "adapters"


def load_finished(
    model: str, precision: str = "auto", method: str = "adapters", model_kwargs: Mapping[str, Any] | None = None
) -> LionForConditionalGeneration:
    """
    Load a finished LION in a precision.

    Raises:
        ValueError: it has no adapters yet, or the precision does not go with the method.
    """
    kwargs: dict[str, Any] = {}
    if precision == "auto":
        on_gpu = torch.cuda.is_available() and has_fast_bfloat16()
        precision = "bfloat16" if on_gpu and method != "full" else "float32"
    if precision == "4bit":
        if method == "full":
            raise ValueError("`method: full` trains all weights, which 4-bit ones can't be: use adapters or lora.")
        kwargs["quantization_config"] = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16" if has_fast_bfloat16() else "float32",
        }
        kwargs["dtype"] = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    else:
        kwargs["dtype"] = getattr(torch, precision)
    loaded = LionForConditionalGeneration.from_pretrained(model, **{**kwargs, **(model_kwargs or {})})
    if not loaded.config.adapter_config.adapters:
        raise ValueError(
            f"{model} has no adapters yet, so there is nothing to fine-tune: train its stages first (`lion train`)."
        )
    return loaded


def finetuning_peft_config(plan: FinetuneRecipe, config: "PretrainedConfig") -> PeftConfig:
    """What PEFT attaches to a finished LION."""
    parts = plan.trained_parts
    modules: list[str] = []
    if "connectors" in parts:
        modules += Q_FORMER_PARTS if "qformer" in config.visual_branches else ()
        modules += AGGREGATOR_PARTS if "aggregator" in config.visual_branches else ()
    if "soft_prompt" in parts:
        modules.append(SOFT_PROMPT)
    if plan.method == "adapters":
        frozen = {"adapters": "adapters", "routers": "router_ratios"}
        return LionAdapterConfig(
            adapters=["built_in"],
            frozen_parts=[name for part, name in frozen.items() if part not in parts],
            trained_modules=modules,
        )
    if {"adapters", "routers"} & set(parts):
        modules.append("adapter")
    fields: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": _LORA_TARGETS}
    try:
        return LoraConfig(**{**fields, "modules_to_save": modules or None, **plan.lora})
    except TypeError as error:
        raise ValueError(f"`finetune.lora` is not right: {error}") from error


def _finish_output(recipe: Recipe, plan: FinetuneRecipe, directory: Path) -> None:
    """What the trainer's own saving leaves to do."""
    if plan.method == "full":
        tagger = tagger_of(recipe, str(recipe.model))
        if tagger is not None:
            loaded = LionTagger.from_pretrained(tagger)
            loaded.model.save_pretrained(directory / TAGGER_SUBFOLDER)
            loaded.image_processor.save_pretrained(directory / TAGGER_SUBFOLDER)
        return
    # The path of a local directory is nobody else's business (a LION_ADAPTER leaves it out by itself).
    file = directory / "adapter_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if Path(str(content.get("base_model_name_or_path"))).exists():
        write_whole(file, json.dumps({**content, "base_model_name_or_path": None}, indent=2))


# --- Adapters in use ---


def load_tuned(adapter: str | Path, model: str | Path | None = None, **kwargs: Any) -> PeftModel:
    """
    A LION with a PEFT adapter, ready to be asked.

    Args:
        adapter (`str` or `Path`): Directory or Hub repo of the adapter.
        model (`str` or `Path`, *optional*): Its base. Defaults to the one that the adapter names.
        kwargs: of `LionForConditionalGeneration.from_pretrained`.

    Raises:
        ValueError: the adapter names no base, or does not fit it.
    """
    config = PeftConfig.from_pretrained(str(adapter))
    base = model or config.base_model_name_or_path
    if base is None:
        raise ValueError(f"The adapter {adapter} names no base model: give the one that it was trained on (--model).")
    return attach_adapter(LionForConditionalGeneration.from_pretrained(str(base), **kwargs), adapter)


def attach_adapter(model: LionForConditionalGeneration, adapter: str | os.PathLike) -> PeftModel:
    """
    A PEFT adapter on top of its base.

    Raises:
        ValueError: there is no adapter, or it does not fit the model.
    """
    try:
        return PeftModel.from_pretrained(model, str(adapter)).eval()
    except (KeyError, RuntimeError, ValueError) as error:  # no adapter, or other sizes
        raise ValueError(f"The adapter {adapter} does not fit {model.name_or_path}: {error}") from error


def merge_adapter(adapter: str | Path, output: str | Path, model: str | Path | None = None) -> Path:
    """
    Fold an adapter into its base: a self-contained checkpoint, with processor and tagger, that needs no PEFT.

    Args:
        adapter (`str` or `Path`): Directory or Hub repo of the adapter.
        output (`str` or `Path`): Where to write; must not exist.
        model (`str` or `Path`, *optional*): The base, where the adapter does not name it.

    Raises:
        ValueError: `output` exists, or the adapter does not fit.
    """
    output = Path(output)
    if output.exists():
        raise ValueError(f"{output} exists already.")
    base = str(model or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    tuned = load_tuned(adapter, model)
    if isinstance(tuned.active_peft_config, LionAdapterConfig):
        merged = fold_adapters(tuned)
    else:
        merged = tuned.merge_and_unload()
    try:
        tagger = LionTagger.from_pretrained(base)
    except OSError:
        tagger = None
    processor = LionProcessor.from_pretrained(base)
    with atomic_directory(output) as partial:
        save_lion(partial, merged, processor, tagger)
    return output


# --- Data and figures ---


def _length(rows: Any) -> int | None:
    return len(rows) if isinstance(rows, datasets.Dataset) else None


def _build_datasets(
    recipe: Recipe, plan: FinetuneRecipe, bad_rows: BadRows, state: PartialState
) -> tuple[Any, dict[str, datasets.Dataset]]:
    def tag(source: SourceRecipe, images: datasets.Dataset) -> Any:
        return tag_images_of(recipe, str(recipe.model), source, images)

    rows = build_dataset(
        plan.data,
        recipe.seed,
        bad_rows,
        tag,
        process_index=state.process_index,
        num_processes=state.num_processes,
    )
    evaluation = {
        source.name: build_dataset([source], recipe.seed, bad_rows, tag, training=False) for source in plan.evaluation
    }
    if not evaluation and isinstance(rows, datasets.Dataset) and plan.hold_out:
        rows, held_out = hold_out(rows, recipe.seed)
        if held_out is not None:
            evaluation["held out"] = held_out
    return rows, evaluation


def _rehearsal(
    recipe: Recipe,
    plan: FinetuneRecipe,
    processor: LionProcessor,
    rows: Any,
    directory: Path,
    state: PartialState,
) -> datasets.Dataset | None:
    """What the base answers about the data's images, asked by one process; None for streams, or where not wanted."""
    if not plan.rehearsal:
        return None
    if not isinstance(rows, datasets.Dataset):
        logger.warning("Rows that are streamed have no rehearsal: what the base can do may be forgotten.")
        return None
    count = min(_MOST_REHEARSED, math.ceil(plan.rehearsal * len(rows)))
    path, finished = directory / "rehearsal.jsonl", directory / _REHEARSED
    data = zlib.crc32("\0".join([str(recipe.model), *rows["prompt"]]).encode("utf-8", "surrogatepass"))
    settings = {"count": count, "seed": recipe.seed, "rows": len(rows), "data": data}
    if state.is_main_process and (known := read_result(finished)) != {**settings, "finished": True}:
        if known != {**settings, "finished": False}:  # answers about other images
            path.unlink(missing_ok=True)
        write_whole(finished, json.dumps({**settings, "finished": False}))
        model = load_finished(str(recipe.model), plan.precision, "adapters", recipe.model_kwargs).to(state.device)
        source = tagger_of(recipe, str(recipe.model))
        tagger = LionTagger.from_pretrained(source) if source else None
        rehearse(model, processor, rows, count, path, recipe.seed, tagger)
        write_whole(finished, json.dumps({**settings, "finished": True}))
        del model
        gc.collect()
    state.wait_for_everyone()
    return read_rehearsal(path, rows, count, recipe.seed)


def hold_out(rows: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Set a tenth of the rows aside (at most 200), whole images at a time, so that none is trained and tested on."""
    wanted = min(_MOST_HELD_OUT, round(_HELD_OUT_SHARE * len(rows)))
    if wanted < 1:
        return rows, None
    by_image: dict[Any, list[int]] = {}
    for index, path in enumerate(_image_paths(rows)):
        by_image.setdefault(index if path is None else path, []).append(index)
    names = list(by_image)
    aside: list[int] = []
    for position in np.random.default_rng(seed).permutation(len(names)):
        if len(aside) + len(by_image[names[position]]) <= wanted:
            aside += by_image[names[position]]
        if len(aside) >= wanted:
            break
    if not aside or len(aside) == len(rows):
        return rows, None
    kept = sorted(set(range(len(rows))) - set(aside))
    return rows.select(kept), rows.select(sorted(aside))


def _image_paths(rows: datasets.Dataset) -> list[str | None]:
    """Where images are files, their paths. Those inside of a dataset would all have to be read to be told apart."""
    images = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    first = images[0]["image"]
    if not first or first["bytes"] or not first["path"]:
        return [None] * len(rows)
    return [image and image["path"] for image in images["image"]]


def _figures(trainer: LionSFTTrainer, evaluation: Mapping[str, datasets.Dataset]) -> dict[str, dict[str, float]]:
    found = {}
    for name, rows in evaluation.items():
        metrics = trainer.evaluate(rows, metric_key_prefix="eval")
        wanted = ["loss", "exact_match", "box_accuracy"]
        if all(parse_boxes(completions[0]) for completions in rows["completion"]):
            wanted.remove("exact_match")  # of coordinates to the third decimal
        found[name] = {key: float(metrics[f"eval_{key}"]) for key in wanted if f"eval_{key}" in metrics}
    return found


def _base_figures(
    trainer: LionSFTTrainer, evaluation: Mapping[str, datasets.Dataset], directory: Path
) -> dict[str, dict[str, float]]:
    """The figures before the first step, when adapters add nothing yet; kept for a run that is resumed."""
    file = directory / _BASE_FIGURES
    known = read_result(file)
    if known is None or set(known) != set(evaluation):
        known = _figures(trainer, evaluation)
        if trainer.is_world_process_zero():
            write_whole(file, json.dumps(known, indent=2))
    return known
