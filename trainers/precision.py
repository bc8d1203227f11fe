"""Where bfloat16 is a gain: on processors without instructions for it, PyTorch computes it many times slower."""

from __future__ import annotations

import os

import torch
from transformers import TrainingArguments

from modeling_lion.attention_lion import cpu_multiplies_bfloat16
from processing_lion.processing_lion import TRANSFORMERS_5


_MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
# What `accelerate launch` was told; whatever is there later, transformers 4 has left there.
_LAUNCHED_WITH = os.environ.get(_MIXED_PRECISION)


def has_fast_bfloat16(use_cpu: bool = False) -> bool:
    """
    Whether the device that a training runs on multiplies in bfloat16.

    Args:
        use_cpu (`bool`): Whether the training leaves a GPU that may be there unused.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_multiplies_bfloat16()


def set_mixed_precision(args: TrainingArguments) -> None:
    """
    Let the next trainer compute in the precision of its own arguments, or of `accelerate launch` where they name none.

    transformers 4 tells accelerate by an environment variable and leaves it set: a training without `bf16` behind one
    with it in the same process would compute in bfloat16 as well. transformers 5 leaves nothing there, nor does this.

    Args:
        args (`TrainingArguments`): The trainer's.
    """
    if TRANSFORMERS_5:
        return
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else _LAUNCHED_WITH
    if precision is None:
        os.environ.pop(_MIXED_PRECISION, None)
    else:
        os.environ[_MIXED_PRECISION] = precision
