"""Supervised fine-tuning of LION on images, prompts and answers."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import run_as_future
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, TrainOutput
from transformers.utils.hub import PushInProgress

from modeling_lion.extras_lion import needs_extra
from modeling_lion.language_model_lion import LionT5ForConditionalGeneration
from modeling_lion.modeling_lion import LionForConditionalGeneration
from trainers.answer_metrics import ComputeAnswerMetrics
from trainers.augmentation import Augmentation
from trainers.collator import LionDataCollator
from trainers.datasets_lion import expand_conversations
from trainers.files import find_last_checkpoint, finished_state, write_whole
from trainers.plots import plot_losses, plot_routers, router_weights
from trainers.precision import set_mixed_precision
from trainers.publishing import Push, push_directory
from trainers.publishing.cards import tag_card
from trainers.pushing import push_copy
from trainers.rows import BadRows, TooManyBadRowsError, find_column_problem
from trainers.sft_config import LionSFTConfig
from trainers.stages import get_stage


with needs_extra("train", "LionSFTTrainer"):
    import datasets
    import trl
    from accelerate.data_loader import prepare_data_loader


logger = logging.getLogger(__name__)

_IGNORED_LABEL = -100
# Rows from all over a dataset that are looked at before the first step.
_PROBED_ROWS = 20


class LionSFTTrainer(trl.SFTTrainer):
    """
    `trl.SFTTrainer` for a sequence-to-sequence model with images. It trains the adapters of a `peft_config`, a
    `PeftModel` as it is, or the parts of a plain `LionForConditionalGeneration` that `args.stage` names.

    Args:
        model (`LionForConditionalGeneration` or `PeftModel`): What to train.
        args ([`LionSFTConfig`], *optional*): Settings.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`): Rows as [`LionDataCollator`] takes them.
        eval_dataset (the same, or a `dict` of them by name, *optional*): Rows to evaluate on.
        processing_class ([`LionProcessor`]): Makes tensors of rows, and text of answers.
        data_collator (`Callable`, *optional*):
            Instead of [`LionDataCollator`]; evaluation then uses it as well.
        compute_metrics (`Callable`, *optional*):
            Gets an `EvalPrediction` of generated ids and labels, both padded with -100. Default: exact match and box
            accuracy.
        bad_rows ([`BadRows`], *optional*): Record of unusable rows, kept in `output_dir/bad_rows.jsonl` by default.
        kwargs: The other arguments of `trl.SFTTrainer`.

    Example:

    ```python
    >>> from trainers import LionSFTConfig, LionSFTTrainer
    >>> from trainers.stages import get_stage

    >>> trainer = LionSFTTrainer(
    ...     model,
    ...     LionSFTConfig(output_dir="stage1", max_steps=1000),
    ...     train_dataset=rows,
    ...     processing_class=processor,
    ...     peft_config=get_stage("stage1").peft_config(),
    ... )
    >>> trainer.train()
    ```
    """

    _tag_names = ["trl", "sft", "lion"]

    def __init__(
        self,
        model: Any,
        args: LionSFTConfig | None = None,
        train_dataset: datasets.Dataset | datasets.IterableDataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        bad_rows: BadRows | None = None,
        **kwargs: Any,
    ):
        if args is None:
            args = LionSFTConfig(output_dir="lion-sft")
        if not isinstance(args, LionSFTConfig):
            raise TypeError(f"`args` must be a LionSFTConfig, got {type(args).__name__}.")
        if processing_class is None:
            raise ValueError("`processing_class` must be a LionProcessor, got None.")
        if args.stage is not None:
            if kwargs.get("peft_config") is not None or not isinstance(model, PreTrainedModel):
                raise ValueError(
                    "`stage` is for a plain model: a `peft_config` or PeftModel says itself what is trained."
                )
            get_stage(args.stage).freeze(model)

        self.bad_rows = bad_rows or BadRows(
            args.bad_rows, Path(args.output_dir) / "bad_rows.jsonl", args.max_bad_row_share
        )
        own_collator = data_collator is None
        if own_collator:
            train_dataset = _prepare_rows(train_dataset, "train_dataset")
            if isinstance(eval_dataset, dict):
                eval_dataset = {k: _prepare_rows(v, f"eval_dataset[{k!r}]") for k, v in eval_dataset.items()}
            else:
                eval_dataset = _prepare_rows(eval_dataset, "eval_dataset")
        self._eval_collator = data_collator or LionDataCollator(
            processing_class, bad_rows=self.bad_rows, allow_private_addresses=args.allow_private_addresses
        )
        if data_collator is None:
            levels = {"image_level": args.image_augmentation, "region_level": args.region_augmentation}
            data_collator = LionDataCollator(
                processing_class,
                Augmentation(args.crop_scale, args.flip_probability),
                augmented_levels=[level for level, augmented in levels.items() if augmented],
                seed=args.data_seed,
                bad_rows=self.bad_rows,
                allow_private_addresses=args.allow_private_addresses,
            )
        if compute_metrics is None and args.predict_with_generate:
            compute_metrics = ComputeAnswerMetrics(processing_class)
        callbacks = [*(callbacks or []), _EpochCallback(data_collator)]
        set_mixed_precision(args)
        try:
            super().__init__(
                model=model,
                args=args,
                train_dataset=_number(train_dataset),
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                data_collator=data_collator,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                **kwargs,
            )
        except StopIteration:  # TRL looks at the first row of a stream
            raise TooManyBadRowsError(f"`train_dataset` has no usable row: {self.bad_rows.reasons()}.") from None
        if self.is_fsdp_enabled:
            _name_embeddings_once(self.model)
            _keep_loss_in_float32(self.accelerator.state.fsdp_plugin)
            if args.predict_with_generate:
                # Only the whole model's forward gathers the weights outside of its blocks.
                logger.warning("Under FSDP, evaluation reports losses but generates no answers.")
                self.compute_metrics = None
        # The model divides its loss by `num_items_in_batch`, whatever wraps it.
        self.model_accepts_loss_kwargs = True
        self._without_dropout = [] if args.frozen_dropout else _frozen_modules(self.model)
        self._own_collator = own_collator
        self._inputs_checked = False
        self._usable_rows = {"training": 0, "evaluation": 0}

    # --- Data ---

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            self._signature_columns = ["image", "images", "prompt", "completion", "messages", "turn", "tags", "level"]

    def get_train_dataloader(self) -> DataLoader:
        """As the `Trainer`'s, except that nothing divides a stream that has been divided already."""
        if not (self.args.own_streams and isinstance(self.train_dataset, datasets.IterableDataset)):
            return super().get_train_dataloader()
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        loader = prepare_data_loader(
            loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
            non_blocking=self.accelerator.non_blocking,
        )
        loader._is_accelerate_prepared = True
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset=None):
        with self._evaluation_collator():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        with self._evaluation_collator():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _evaluation_collator(self):
        training_collator, self.data_collator = self.data_collator, self._eval_collator
        try:
            yield
        finally:
            self.data_collator = training_collator

    # --- Training ---

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """
        As the `Trainer`'s. `resume_from_checkpoint=True` goes on at the newest checkpoint that is complete; one after
        whose step nothing is left to do is loaded, and that is all.

        Raises:
            ValueError: no row can be used, or too many cannot; the reasons are counted.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_last_checkpoint(self.args.output_dir, self.args.world_size)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"`resume_from_checkpoint`: there is no complete checkpoint in {self.args.output_dir}."
                )
        if resume_from_checkpoint:
            state = finished_state(resume_from_checkpoint, self.args.max_steps, self.args.num_train_epochs)
            if state is not None:
                logger.info("%s is finished already at step %d.", resume_from_checkpoint, state.global_step)
                if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                    self._load_shared_out(resume_from_checkpoint)
                else:
                    self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        self._probe_rows()
        self._usable_rows["training"] = 0
        try:
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except StopIteration:  # a stream that gives nothing
            raise TooManyBadRowsError(f"The training met no usable row: {self.bad_rows.reasons()}.") from None
        self._check_usable_rows("training")
        return output

    def _load_shared_out(self, checkpoint: str) -> None:
        """
        Load a checkpoint whose weights are shared out over processes: they are loaded once training is set up, and a
        `Trainer` whose last step is within an epoch would take one more.
        """
        setup = _SetupAlone()
        self.add_callback(setup)
        try:
            super().train(resume_from_checkpoint=checkpoint)
        except _NothingLeftError:
            self.callback_handler.on_train_end(self.args, self.state, TrainerControl())
        finally:
            self.remove_callback(setup)
            self.is_in_train = False

    def _probe_rows(self) -> None:
        """End a training of which no row can be used before it starts, rather than with an untouched model."""
        rows = self.train_dataset
        if not self._own_collator or not isinstance(rows, datasets.Dataset):
            return  # a stream is looked at as it comes
        if not len(rows):
            raise ValueError("`train_dataset` has no rows.")
        problems = []
        for position in range(0, len(rows), -(-len(rows) // _PROBED_ROWS)):
            try:
                row = _undecoded(rows, [position])[0]
                problem = self.data_collator.find_problem(row)
            except Exception as error:  # datasets' own reading of it
                row, problem = {}, f"cannot be read: {type(error).__name__}: {error}"
            if problem is None:
                return
            problems.append((row.get("source") or "train_dataset", row.get("index", position), problem))
        for source, index, problem in problems:
            self.bad_rows.record(source, index, problem)
        raise TooManyBadRowsError(
            f"`train_dataset` has no usable row among {len(problems)} that were tried of {len(rows)}: "
            f"{self.bad_rows.reasons()}."
        )

    def _check_usable_rows(self, phase: str) -> None:
        usable = torch.as_tensor(self._usable_rows[phase], device=self.args.device).reshape(1)
        if not self.accelerator.gather(usable).sum().item():
            raise TooManyBadRowsError(f"The {phase} met no usable row: {self.bad_rows.reasons()}.")

    def _check_inputs_arrive(self, model: nn.Module, inputs: dict[str, Any]) -> Callable[[], None]:
        """
        See to it that what the collator made reaches LION. A wrapper that takes an argument for its own (as PEFT's for
        sequence-to-sequence models do) would drop it without a word, and every row would be of one level.

        Returns:
            What to call after the forward pass.
        """
        arrived: set[str] = set()

        def note(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            arrived.update(name for name, value in kwargs.items() if value is not None)

        lion = next((m for m in model.modules() if isinstance(m, LionForConditionalGeneration)), None)
        if lion is None:
            return lambda: None
        hook = lion.register_forward_pre_hook(note, with_kwargs=True)

        def check() -> None:
            hook.remove()
            lost = sorted(name for name, value in inputs.items() if value is not None and name not in arrived)
            if lost:
                raise RuntimeError(
                    f"{lost} of the collator's batch do not reach the model: {type(model).__name__} keeps them. "
                    "Without the level of each row the adapters are not routed: wrap the model another way (in PEFT, "
                    "without `task_type`)."
                )

        return check

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
    ) -> Any:
        """The model's own loss: the mean over all answer tokens of the global batch."""
        for module in self._without_dropout:
            module.training = False  # the trainer's `model.train()` came first
        scale = 1
        if num_items_in_batch is None:
            num_items_in_batch = inputs["labels"].ne(_IGNORED_LABEL).sum()
        elif self.args.average_tokens_across_devices:
            scale = self.accelerator.num_processes  # over which gradients are averaged
        # A batch of nothing but unusable rows has a loss of zero, not of 0 / 0.
        num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        phase = "training" if model.training else "evaluation"
        self._usable_rows[phase] += inputs["labels"].ne(_IGNORED_LABEL).any(dim=-1).sum()
        check = (lambda: None) if self._inputs_checked else self._check_inputs_arrive(model, inputs)
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch, use_cache=False)
        check()
        self._inputs_checked = True
        loss = outputs["loss"] * scale
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: transformers' rule counts pixels as tokens, and every parameter again at every step."""
        return 0

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices decay; biases, norms and vectors (soft prompt, scales, the routers' vectors per level) do not."""
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.ndim > 1 and not name.endswith("bias") and "router_ratios" not in name
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The configured optimiser over the groups of [`LionSFTTrainer.parameter_groups`]."""
        if getattr(self, "optimizer", None) is None:
            target = self.model if model is None else model
            optimizer_class, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(self.args, target)
            if {"params", "model", "optimizer_dict"} & set(optimizer_kwargs):
                raise ValueError(
                    f"`optim={self.args.optim!r}` brings its own parameter groups; choose another optimiser."
                )
            self.optimizer = optimizer_class(self.parameter_groups(target), **optimizer_kwargs)
        return self.optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Trainable parameters, by whether they are the aggregator's and whether they decay."""
        decaying = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(("vision_aggregator." in name, name in decaying), []).append(parameter)
        if not groups:
            raise ValueError("The model has no trainable parameter: give `stage`, `peft_config` or a PeftModel.")
        scales = {True: self.args.aggregator_learning_rate_scale, False: 1.0}
        return [
            {
                "params": parameters,
                "lr": self.args.learning_rate * scales[aggregator],
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for (aggregator, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ]

    # --- Evaluation ---

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the `Trainer`'s, and an error where not one row could be used."""
        self._usable_rows["evaluation"] = 0
        output = super().evaluation_loop(*args, **kwargs)
        self._check_usable_rows("evaluation")
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Loss, generated ids (B, at most `generation_max_new_tokens` + 1) and labels, padded with -100."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
        if prediction_loss_only:
            return loss, None, None
        if not self.args.predict_with_generate:
            return Trainer.prediction_step(self, model, inputs, prediction_loss_only, ignore_keys)

        questions = {name: value for name, value in inputs.items() if name != "labels"}
        plugin = getattr(self.args, "deepspeed_plugin", None)
        with torch.no_grad(), self.accelerator.autocast():
            answers = self.accelerator.unwrap_model(model).generate(
                **questions,
                max_new_tokens=self.args.generation_max_new_tokens,
                num_beams=self.args.generation_num_beams,
                do_sample=False,
                # Under ZeRO-3 every forward pass gathers weights from all processes, so none may stop early.
                synced_gpus=plugin is not None and plugin.zero_stage == 3,
            )
        answers = answers.masked_fill(answers == self.processing_class.tokenizer.pad_token_id, _IGNORED_LABEL)
        return loss, answers, inputs["labels"]

    # --- Output ---

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            directory = Path(output_dir if output_dir is not None else self.args.output_dir)
            # Settings are text here, not a pickle.
            (directory / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_whole(directory / "training_args.json", self.args.to_json_string())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: TRL's card is a text generator's. Where nobody has written one, pushing makes one."""

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tags: str | Iterable[str] = (),
        dataset_name: str | None = None,
        **kwargs: Any,
    ) -> "Push | Future[Push] | None":
        """
        Save model or adapter and processor to `args.output_dir`, and push them in one commit to `args.hub_model_id`, or
        to a repo with the directory's name. Nothing else of that directory is pushed; see
        `lion_multimodal.hub.push_directory`.

        Args:
            commit_message (`str`, *optional*): The commit's message.
            blocking (`bool`): Whether to return only when it is done.
            token (`str`, *optional*): Instead of `args.hub_token` or the one that is logged in.
            revision (`str`, *optional*): Branch instead of `args.hub_revision`, or the main one.
            private (`bool`, *optional*): Whether a new repo is private, instead of `args.hub_private_repo`.
            tags (`str` or `Iterable[str]`): Tags of the card, beside those it has.
            dataset_name (`str`, *optional*): Dataset on the Hub, for the card.
            kwargs: Of `lion_multimodal.hub.push_directory`, as `base_model`.

        Returns:
            What was pushed, or without `blocking` a `Future` of it; None on all processes but the first.

        Raises:
            ValueError: something would tell of this machine; nothing was pushed.
            OSError: the Hub refuses, or cannot be reached.
        """
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        push = partial(
            push_directory,
            self.args.output_dir,
            self._repo_to_push_to(),
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            message=commit_message,
            token=token or self.args.hub_token,
            edit_card=tag_card([*self._tag_names, *([tags] if isinstance(tags, str) else tags)], dataset_name),
            **kwargs,
        )
        return push() if blocking else run_as_future(push)

    def _repo_to_push_to(self) -> str:
        # Set once the repo has been made, with its owner.
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # transformers pushes all of `output_dir`, with pickled arguments that it writes for that.
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        running: PushInProgress | None = getattr(self, "push_in_progress", None)
        if running is not None and not running.is_done() and not self.args.hub_always_push:
            return
        push = push_copy(
            checkpoint_folder,
            self._repo_to_push_to(),
            private=self.args.hub_private_repo,
            revision=self.args.hub_revision,
            message=f"Training in progress, step {self.state.global_step}",
            token=self.args.hub_token,
            edit_card=tag_card(self._tag_names),
        )
        earlier = [] if running is None else running.jobs
        self.push_in_progress = PushInProgress([*earlier, run_as_future(push)])

    def plot(self, output_dir: str | os.PathLike | None = None) -> list[Path]:
        """Draw `loss.png` and, if the model has routers, `routers.png` into `output_dir`."""
        directory = Path(self.args.output_dir if output_dir is None else output_dir)
        files = [
            plot_losses(self.state.log_history, directory / "loss.png"),
            plot_routers(router_weights(self.accelerator.unwrap_model(self.model)), directory / "routers.png"),
        ]
        return [file for file in files if file is not None]


class _EpochCallback(TrainerCallback):
    """Tells the collator which epoch begins."""

    def __init__(self, collator: Any):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(int(state.epoch or 0))


def _prepare_rows(rows: Any, name: str) -> Any:
    """Check that rows have the columns of the collator, and make a row of each exchange of a conversation."""
    if not isinstance(rows, (datasets.Dataset, datasets.IterableDataset)) or rows.column_names is None:
        return rows
    problem = find_column_problem(rows.column_names)
    if problem is not None:
        raise ValueError(f"`{name}` {problem}.")
    if "messages" in rows.column_names and not {"prompt", "turn"} & set(rows.column_names):
        # What each row says is told by its place in the dataset, of which several rows may now come.
        rows = expand_conversations(_number(rows))
    return rows


def _undecoded(rows: datasets.Dataset, positions: list[int]) -> list[dict[str, Any]]:
    selected = rows.select(positions)
    for column, feature in selected.features.items():
        if isinstance(feature, datasets.Image):
            selected = selected.cast_column(column, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            selected = selected.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return list(selected)


def _number(rows: Any) -> Any:
    """Give rows that nobody numbered an `index`, by which augmentation and reports tell them apart."""
    if isinstance(rows, datasets.Dataset) and "index" not in rows.column_names:
        return rows.add_column("index", range(len(rows)))
    return rows


def _name_embeddings_once(model: nn.Module) -> None:
    """
    Leave T5's embeddings registered as `shared` alone: FSDP shards a parameter for one module, and saves and loads it
    under one name. Encoder and decoder go on using it.
    """
    for t5 in [module for module in model.modules() if isinstance(module, LionT5ForConditionalGeneration)]:
        for stack in (t5.encoder, t5.decoder):
            del stack.embed_tokens
            stack.__dict__["embed_tokens"] = t5.shared


class _NothingLeftError(Exception):
    """Training is set up, and no step of it left to take."""


class _SetupAlone(TrainerCallback):
    """Ends a training before its first step."""

    def on_train_begin(self, args, state, control, **kwargs):
        raise _NothingLeftError


def _keep_loss_in_float32(fsdp_plugin: Any) -> None:
    """Have FSDP compute in half precision, but neither round the loss to it nor add gradients up in it."""
    policy = fsdp_plugin.mixed_precision_policy
    if isinstance(policy, MixedPrecisionPolicy):
        fsdp_plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)


# What may be trained of a part whose other weights are frozen; nothing in it has dropout.
_TRAINED_IN_FROZEN_PART = {
    "vision_model": "post_layernorm",
    "qformer": None,
    "vision_aggregator": None,
    "language_model": "adapter",
}


def _frozen_modules(model: nn.Module) -> list[nn.Module]:
    """
    All modules of the parts that are frozen. Layers that switch gradient checkpointing by their mode are left out; they
    have no dropout of their own.
    """
    found = []
    for part, exempt in _TRAINED_IN_FROZEN_PART.items():
        for name, module in model.named_modules():
            if name.rpartition(".")[2] != part:
                continue
            trained = [n for n, p in module.named_parameters() if p.requires_grad]
            if all(exempt is not None and exempt in n for n in trained):
                found += [m for m in module.modules() if not isinstance(m, GradientCheckpointingLayer)]
    return found
