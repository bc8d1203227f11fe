"""The processes that `accelerate launch` or `torchrun` started together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta


# Shares of the work are never equal.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """
    This process among those that share the work.

    Args:
        index (`int`): Its number among all of them.
        count (`int`): How many there are.
        local_index (`int`): Its number among those of this machine.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @classmethod
    def launched(cls) -> Processes:
        """What the launcher says; one process without a launcher."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        return cls(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def is_main(self) -> bool:
        """Whether it is the one that does what is to be done once."""
        return self.index == 0

    def wait(self) -> None:
        """Wait for all others to come here, too."""
        if self.count == 1:
            return
        import torch.distributed

        if not torch.distributed.is_initialized():
            # They say nothing to one another but that they are there: also with GPUs, that needs no GPU.
            torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
        torch.distributed.barrier()

    def device(self, device: str | None) -> str | None:
        """Where this process's model runs: each has an accelerator of its own, unless a device is named."""
        if device is not None or self.count == 1:
            return device
        import torch

        from modeling_lion.device_lion import default_device

        kind = default_device().type
        return kind if kind == "cpu" else f"{kind}:{self.local_index % torch.accelerator.device_count()}"
