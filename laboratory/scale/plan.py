"""
What training a LION takes, before any GPU is there: `python -m laboratory.scale.plan --preset flan-t5-xxl --gpus 8 64`.

The model is built without memory (PyTorch's meta device) with each stage's adapters, in bfloat16, and run forward and
backward once: parameters, activations and floating-point operations are counted, not estimated. What cannot be counted
is an argument: the share of the GPU's speed that is reached, the bandwidth, the reserve.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import transformers.masking_utils
from peft import PeftModel, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from configuration_lion import LionConfig
from modeling_lion.modeling_lion import LionForConditionalGeneration
from trainers.publishing.markdown import markdown_table
from trainers.stages import STAGES, get_stage


# The classes that the recipe for FSDP shards one by one, and those that gradient checkpointing runs twice.
SHARDED_BLOCKS = ("LionT5Block", "InstructBlipEncoderLayer")
CHECKPOINTED_BLOCKS = (*SHARDED_BLOCKS, "InstructBlipQFormerLayer", "LionVisionAggregatorLayer")
PARTS = ("vision_model", "qformer", "vision_aggregator", "language_model")
GIB = 2**30
HALF, SINGLE = 2, 4  # bytes
ADAM_STATES = 2


@dataclass(frozen=True)
class Lengths:
    """Tokens of one sample: prompt with tag sentence, instruction for the Q-Former, answer."""

    text: int = 96
    instruction: int = 24
    answer: int = 20


@dataclass
class Demand:
    """
    What one stage takes. Bytes of activations and operations are those of one sample.

    Args:
        parts (`dict`): parameters by part of the model.
        frozen, trained (`int`): parameters; the base's own copies of trained modules are frozen.
        unsharded (`int`): frozen and trained parameters outside of blocks, which FSDP gathers at the start of a step.
        unsharded_trained (`int`): the trained among them.
        largest_block (`int`): parameters.
        activations (`int`): bytes that wait for the backward pass.
        checkpointed_activations (`int`): the same with gradient checkpointing, the recomputed block included.
        forward, backward, recomputed (`int`): floating-point operations; the last only with gradient checkpointing.
    """

    parts: dict[str, int]
    frozen: int
    trained: int
    unsharded: int
    unsharded_trained: int
    largest_block: int
    activations: int
    checkpointed_activations: int
    forward: int
    backward: int
    recomputed: int

    @property
    def states(self) -> int:
        """Bytes of weights, gradients and Adam's states: frozen parameters in bfloat16, trained ones in float32."""
        return self.frozen * HALF + self.trained * SINGLE * (2 + ADAM_STATES)

    @property
    def working_set(self) -> int:
        """Bytes that FSDP holds beside its share: what is outside of blocks with its gradients, and two blocks."""
        return HALF * (self.unsharded + self.unsharded_trained + 2 * self.largest_block)

    def memory(self, num_gpus: int, samples: int, checkpointing: bool, sharded: bool) -> int:
        """Bytes on each GPU, without the reserve."""
        activations = samples * (self.checkpointed_activations if checkpointing else self.activations)
        if not sharded:
            return self.states + activations
        return self.states // num_gpus + self.working_set + activations

    def operations(self, checkpointing: bool) -> int:
        """Floating-point operations of one sample in a step."""
        return self.forward + self.backward + (self.recomputed if checkpointing else 0)

    def gathered(self) -> int:
        """Bytes that FSDP sends to each GPU in a step: all weights, at most once forward and once backward."""
        return 2 * HALF * (self.frozen + self.trained)


def stage_model(config: LionConfig, stage: str, device: str = "meta") -> PeftModel:
    """A LION with a stage's adapters, all in bfloat16."""
    with torch.device(device):
        model = LionForConditionalGeneration(config).to(torch.bfloat16)
        model = get_peft_model(model, get_stage(stage).peft_config(), autocast_adapter_dtype=False)
    return model.to(torch.bfloat16).train()


def make_inputs(config: LionConfig, lengths: Lengths, device: str = "meta") -> dict[str, torch.Tensor]:
    """One sample."""
    size = config.vision_config.image_size
    with torch.device(device):
        text, instruction = torch.ones(2, 1, lengths.text).long(), torch.ones(2, 1, lengths.instruction).long()
        return {
            "pixel_values": torch.zeros(1, 3, size, size, dtype=torch.bfloat16),
            "input_ids": text[0],
            "attention_mask": text[1],
            "qformer_input_ids": instruction[0],
            "qformer_attention_mask": instruction[1],
            "soft_prompt_mask": torch.zeros(1, lengths.text).long(),
            "level_ids": torch.zeros(1).long(),
            "labels": torch.ones(1, lengths.answer).long(),
        }


@contextmanager
def _unread_masks() -> Iterator[None]:
    """Masks on the meta device have no values to look at: attention takes them as they are."""
    names = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")
    with patch.multiple(transformers.masking_utils, create=True, **{name: lambda *a, **k: False for name in names}):
        yield


class _Activations:
    """Bytes of what autograd saves, block by block. Storages are kept, so that none is counted twice."""

    def __init__(self, model: nn.Module, flops: FlopCounterMode):
        self.flops = flops
        self.seen = {p.untyped_storage()._cdata for p in model.parameters()}
        self.kept: list[Any] = []
        self.outside = 0
        self.blocks: dict[nn.Module, int] = {}
        self.inputs: dict[nn.Module, int] = {}
        self.operations: dict[nn.Module, int] = {}
        self._current: nn.Module | None = None
        for module in model.modules():
            if type(module).__name__ in CHECKPOINTED_BLOCKS:
                module.register_forward_pre_hook(self._enter, with_kwargs=True)
                module.register_forward_hook(self._leave)

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        """For `saved_tensors_hooks`."""
        size = self._new_bytes(tensor)
        if self._current is None:
            self.outside += size
        else:
            self.blocks[self._current] += size
        return tensor

    def _new_bytes(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata in self.seen:
            return 0
        self.seen.add(storage._cdata)
        self.kept.append(storage)
        return storage.nbytes()

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._current = module
        self.blocks[module] = 0
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        self.inputs[module] = tensors[0].numel() * tensors[0].element_size() if tensors else 0
        self.operations[module] = self.flops.get_total_flops()

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._current = None
        self.operations[module] = self.flops.get_total_flops() - self.operations[module]


def count(config: LionConfig, stage: str, lengths: Lengths, device: str = "meta") -> Demand:
    """Build one stage's model, and run it forward and backward once."""
    model = stage_model(config, stage, device)
    lion = model.get_base_model()
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    blocks = [module for module in model.modules() if type(module).__name__ in SHARDED_BLOCKS]
    in_blocks = {id(p) for block in blocks for p in block.parameters()}
    parts = {name: sum(p.numel() for p in getattr(lion, name).parameters()) for name in PARTS if hasattr(lion, name)}

    with FlopCounterMode(display=False) as flops, _unread_masks():
        activations = _Activations(model, flops)
        with torch.autograd.graph.saved_tensors_hooks(activations.save, lambda tensor: tensor):
            loss = model(**make_inputs(config, lengths, device)).loss
        forward = flops.get_total_flops()
        loss.backward()
    # A block that saved nothing (the frozen tower's) is not run again.
    again = [block for block, size in activations.blocks.items() if size]
    return Demand(
        parts={**parts, "the rest": sum(p.numel() for p in parameters) - sum(parts.values())},
        frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        trained=sum(p.numel() for p in trained),
        unsharded=sum(p.numel() for p in parameters if id(p) not in in_blocks),
        unsharded_trained=sum(p.numel() for p in trained if id(p) not in in_blocks),
        largest_block=max(sum(p.numel() for p in block.parameters()) for block in blocks),
        activations=activations.outside + sum(activations.blocks.values()),
        checkpointed_activations=activations.outside
        + sum(activations.inputs[block] for block in again)
        + max(activations.blocks.values()),
        forward=forward,
        backward=flops.get_total_flops() - forward,
        recomputed=sum(activations.operations[block] for block in again),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m laboratory.scale.plan", description=__doc__)
    parser.add_argument("--preset", default="flan-t5-xxl", help="of LionConfig (default: flan-t5-xxl)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64], help="how many (default: 8 64)")
    parser.add_argument("--samples", type=int, default=16, help="of each GPU in a step (default: 16)")
    parser.add_argument("--steps", type=int, nargs=3, default=[20000, 20000, 10000], help="of the stages on 8 GPUs")
    parser.add_argument("--teraflops", type=float, default=989.0, help="of a GPU in bfloat16 (default: 989, H100 SXM)")
    parser.add_argument("--utilisation", type=float, default=0.35, help="assumed share of it (default: 0.35)")
    parser.add_argument("--bandwidth", type=float, default=200.0, help="assumed GB/s of gathering (default: 200)")
    args = parser.parse_args(arguments)
    config = LionConfig.from_preset(args.preset, adapter_config={"adapters": []})
    config._attn_implementation = "sdpa"
    demands = {stage: count(config, stage, Lengths()) for stage in STAGES}

    print("Parameters (millions)\n")
    print(
        markdown_table(
            ["stage", *demands["stage3"].parts, "frozen", "trained"],
            [
                [stage, *(f"{n / 1e6:.1f}" for n in (*d.parts.values(), d.frozen, d.trained))]
                for stage, d in demands.items()
            ],
        )
    )
    print("\nOne sample\n")
    print(
        markdown_table(
            ["stage", "forward, TFLOP", "backward", "recomputed", "activations, MiB", "with checkpointing, MiB"],
            [
                [
                    stage,
                    *(f"{n / 1e12:.2f}" for n in (d.forward, d.backward, d.recomputed)),
                    *(f"{n / 2**20:.0f}" for n in (d.activations, d.checkpointed_activations)),
                ]
                for stage, d in demands.items()
            ],
        )
    )
    print(f"\nGiB on each GPU, {args.samples} samples on each, without the reserve\n")
    print(
        markdown_table(
            ["stage", "states, whole", *(f"states, 1/{n}" for n in args.gpus), "working set", "activations"]
            + ["checkpointed", "copy on each GPU", *(f"FSDP on {n}" for n in args.gpus)]
            + [f"FSDP on {n}, checkpointed" for n in args.gpus],
            [
                [
                    stage,
                    *(
                        f"{n / GIB:.1f}"
                        for n in (
                            d.states,
                            *(d.states / n for n in args.gpus),
                            d.working_set,
                            args.samples * d.activations,
                            args.samples * d.checkpointed_activations,
                            d.memory(1, args.samples, checkpointing=False, sharded=False),
                            *(d.memory(n, args.samples, checkpointing=False, sharded=True) for n in args.gpus),
                            *(d.memory(n, args.samples, checkpointing=True, sharded=True) for n in args.gpus),
                        )
                    ),
                ]
                for stage, d in demands.items()
            ],
        )
    )
    print(
        f"\nTime, if a GPU of {args.teraflops:.0f} TFLOP/s reaches {args.utilisation:.0%} of them and gathers "
        f"{args.bandwidth:.0f} GB/s\n"
    )
    rows = []
    for (stage, demand), steps in zip(demands.items(), args.steps):
        samples = steps * args.samples * 8
        for number in args.gpus:
            for checkpointing in (False, True):
                operations = demand.operations(checkpointing)
                compute = args.samples * operations / (args.teraflops * 1e12 * args.utilisation)
                gather = demand.gathered() / (args.bandwidth * 1e9)
                step = max(compute, gather)
                rate = number * args.samples / step
                rows.append(
                    [stage, str(number), "yes" if checkpointing else "no", f"{compute:.2f}", f"{gather:.2f}"]
                    + [f"{rate:.0f}", f"{samples / 1e6:.2f}", f"{samples / rate / 3600:.1f}"]
                )
    header = ["stage", "GPUs", "checkpointing", "computing, s a step", "gathering, s a step", "samples/s"]
    print(markdown_table([*header, "million samples", "hours"], rows))


if __name__ == "__main__":
    main()
