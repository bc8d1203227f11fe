"""Where bfloat16 is a gain: on processors without instructions for it, PyTorch computes it many times slower."""

from __future__ import annotations

from collections.abc import Mapping

import torch


_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_1", "sve_bf16", "bf16")


def has_fast_bfloat16(use_cpu: bool = False) -> bool:
    """
    Whether the device that a training runs on multiplies in bfloat16.

    Args:
        use_cpu (`bool`): Whether the training leaves a GPU that may be there unused.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older versions of PyTorch do not tell what a processor can do.
    capabilities: Mapping[str, bool | int] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in _CPU_INSTRUCTIONS)
