"""Settings of a LION training run."""

from dataclasses import dataclass, field

import torch

from modeling_lion.extras_lion import needs_extra
from processing_lion.processing_lion import TRANSFORMERS_5
from trainers.stages import get_stage


with needs_extra("train", "LionSFTConfig"):
    import trl


@dataclass
class LionSFTConfig(trl.SFTConfig):
    """
    Settings of [`LionSFTTrainer`]: those of `trl.SFTConfig`, whose defaults are changed where they don't suit a
    sequence-to-sequence model with images, and LION's own.

    Args:
        stage (`str`, *optional*):
            `"stage1"`, `"stage2"` or `"stage3"`: leave only that stage's parts of a plain model trainable. Not needed
            with a `peft_config`, which says by itself what is trained. Without either the model is trained as it is.
        aggregator_learning_rate_scale (`float`, defaults to 1.0):
            Factor on the learning rate of the vision aggregator's own layers (official "boost").
        frozen_dropout (`bool`, defaults to `True`):
            Whether the dropout of frozen parts stays active while training, as it does for the official T5.
        image_augmentation (`bool`, defaults to `True`):
            Random resized crop and horizontal flip for image-level rows. A row whose text speaks of left or right is
            never flipped.
        region_augmentation (`bool`, defaults to `False`):
            The same for region-level rows, with the boxes of their texts moved along. A crop that would lose a box is
            not made.
        crop_scale (`tuple[float, float]`, defaults to `(0.5, 1.0)`): Share of the image's area that a crop keeps.
        flip_probability (`float`, defaults to 0.5): How often an image is flipped.
        bad_rows (`str`, defaults to `"skip"`): Whether a row that cannot be used is skipped (and reported) or fatal
            (`"fail"`).
        max_bad_row_share (`float`, defaults to 0.05):
            The share of a source's rows that may be skipped. Above it, once 100 rows were read, training ends with an
            error that counts the reasons. 1 allows any; a training that meets no usable row at all always fails.
        allow_private_addresses (`bool`, *optional*):
            Whether an address in a row may lead to one that is not public (this machine, its network). Defaults to what
            the environment says, see `processing_lion.load_image`.
        predict_with_generate (`bool`, defaults to `True`):
            Whether evaluation also generates answers and compares them: exact match, and box accuracy at IoU 0.5.
        generation_max_new_tokens (`int`, defaults to 64): Longest answer that evaluation generates.
        generation_num_beams (`int`, defaults to 1): Beams of evaluation.
        plots (`bool`, defaults to `True`): Whether to draw loss and routers into PNG files at the end.
        own_streams (`bool`, defaults to `False`):
            Whether a streaming `train_dataset` gives every process rows of its own without end, as
            `trainers.datasets_lion.build_dataset` makes it. Otherwise the first process reads all rows, and sends the
            others theirs.

    The defaults of these inherited fields differ: `label_names=["labels"]`; `remove_unused_columns=False` (rows reach
    the collator whole); `max_length=None` (the processor truncates, tags first); `gradient_checkpointing=False`;
    `report_to="none"`; `ddp_find_unused_parameters=False` (every trained parameter takes part in every batch);
    `logging_nan_inf_filter=False`; `save_total_limit=2`; `data_seed` is `seed` unless given; `bf16` is
    on only where a GPU has it. `warmup_steps` below 1 is a share of all steps, on transformers 4 as well.
    """

    stage: str | None = field(
        default=None, metadata={"help": "Leave only this stage's parts of a plain model trainable."}
    )
    aggregator_learning_rate_scale: float = field(
        default=1.0, metadata={"help": "Factor on the learning rate of the vision aggregator's own layers."}
    )
    frozen_dropout: bool = field(
        default=True, metadata={"help": "Keep the dropout of frozen parts active while training, as the official T5's."}
    )
    image_augmentation: bool = field(
        default=True, metadata={"help": "Random resized crop and horizontal flip for image-level rows."}
    )
    region_augmentation: bool = field(
        default=False, metadata={"help": "The same for region-level rows, with their boxes moved along."}
    )
    crop_scale: tuple[float, float] = field(
        default=(0.5, 1.0), metadata={"help": "Share of the image's area that a crop keeps.", "nargs": 2}
    )
    flip_probability: float = field(default=0.5, metadata={"help": "How often an image is flipped."})
    bad_rows: str = field(
        default="skip", metadata={"help": "What to do with unusable rows.", "choices": ["skip", "fail"]}
    )
    max_bad_row_share: float = field(
        default=0.05, metadata={"help": "Share of unusable rows above which training fails, after 100 rows."}
    )
    allow_private_addresses: bool | None = field(
        default=None, metadata={"help": "Whether addresses in rows may lead to ones that are not public."}
    )
    predict_with_generate: bool = field(
        default=True, metadata={"help": "Generate answers while evaluating, and compare them."}
    )
    generation_max_new_tokens: int = field(
        default=64, metadata={"help": "Longest answer that evaluation generates, in tokens."}
    )
    generation_num_beams: int = field(default=1, metadata={"help": "Beams while evaluating."})
    plots: bool = field(default=True, metadata={"help": "Draw loss and routers into PNG files at the end."})

    own_streams: bool = field(
        default=False, metadata={"help": "A streaming train_dataset gives every process rows of its own, without end."}
    )

    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Names of the labels in the inputs."}
    )
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Must stay off: the collator needs whole rows."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Unused: the processor truncates."})
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass to save memory."}
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "Where to report to, for example tensorboard."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not needed: every trained parameter takes part in every batch."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Off, so that a loss that is not a number is seen; on, it also costs a wait."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    # transformers 4 wants an int; below 1 it is a share of the steps here, as on transformers 5.
    warmup_steps: float = field(default=0, metadata={"help": "Warm-up steps, or below 1 their share of all steps."})

    def __post_init__(self):
        self._check()
        self.crop_scale = tuple(self.crop_scale)
        if getattr(self, "activation_checkpointing", self) is None:
            # The field's new name on transformers 5, which warns of the old one even where nobody gave it.
            self.activation_checkpointing = bool(self.gradient_checkpointing)
        if 0 < self.warmup_steps < 1 and not TRANSFORMERS_5:
            self.warmup_ratio, self.warmup_steps = self.warmup_steps, 0
        if self.data_seed is None:
            # Otherwise the order of the rows would hang on torch's global seed when training starts.
            self.data_seed = self.seed
        if self.bf16 is None and not self.fp16:
            self.bf16 = not self.use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        super().__post_init__()

    def _check(self) -> None:
        if self.stage is not None:
            get_stage(self.stage)
        if self.bad_rows not in ("skip", "fail"):
            raise ValueError(f"`bad_rows` must be 'skip' or 'fail', got {self.bad_rows!r:.100}.")
        if not 0 <= self.max_bad_row_share <= 1:
            raise ValueError(f"`max_bad_row_share` must lie in [0, 1], got {self.max_bad_row_share}.")
        if self.aggregator_learning_rate_scale <= 0:
            raise ValueError(
                f"`aggregator_learning_rate_scale` must be positive, got {self.aggregator_learning_rate_scale}."
            )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"`crop_scale` must hold two shares, 0 < low <= high <= 1, got {self.crop_scale}.")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"`flip_probability` must lie in [0, 1], got {self.flip_probability}.")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be False: the collator needs images and texts.")
        if self.packing or self.padding_free:
            raise ValueError("`packing` and `padding_free` are for decoder-only models; leave them False.")
        if self.hub_strategy in ("checkpoint", "all_checkpoints"):
            raise ValueError(
                "`hub_strategy` must be 'every_save' or 'end': states of optimisers are pickled, and are not pushed."
            )
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` is not supported: the loss is the model's own.")
