"""Where a model runs unless its user says otherwise."""

import torch


def default_device() -> torch.device:
    """
    The accelerator if there is one that can be used, else the CPU.

    `torch.accelerator.current_accelerator()` alone names CUDA wherever torch was built for it, which PyPI's torch is,
    on machines without a GPU as well. Its argument `check_available` is missing from torch 2.6.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


__all__ = ["default_device"]
