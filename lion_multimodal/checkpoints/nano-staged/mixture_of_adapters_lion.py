"""
The mixture of adapters and its router (paper section 3.3; official `MoEAdapter` in the T5 feed-forward layers).

Which level a sample belongs to, image or region, is an argument of one forward pass, never state of a module: the model
makes a [`LevelRouting`] and hands it down through stack and block. So samples of both levels share a batch, and threads
with different levels share a model.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


NUM_LEVELS = 2


class LevelRouting:
    """
    The levels of one batch.

    Args:
        level_ids (`torch.LongTensor` of shape `(batch_size,)`): 0 = region level, 1 = image level.
        reuse (`bool`, *optional*, defaults to `False`):
            Whether many steps follow with unchanged weights (generation). Adapters and router of a batch with one
            level are then folded into one small bottleneck, once.
    """

    def __init__(self, level_ids: torch.LongTensor, reuse: bool = False):
        self.level_ids = level_ids
        self.single_level = None
        if reuse:
            present = level_ids.unique().tolist()
            self.single_level = present[0] if len(present) == 1 else None
        self.folded: dict[nn.Module, tuple[torch.Tensor, ...]] = {}

    def expand(self, rows: int) -> torch.LongTensor:
        """Level of each of `rows` rows, where beams or candidates of a sample stand next to each other."""
        return self.level_ids.repeat_interleave(rows // self.level_ids.shape[0])


class LionAdapter(nn.Module):
    """
    One bottleneck adapter, `scale * (W_up ReLU(W_down h + b) + b')`. A new one returns exactly zero.

    Args:
        hidden_size (`int`): Width of the LLM (`d_model`).
        bottleneck_size (`int`): Width of the hidden layer.
    """

    def __init__(self, hidden_size: int, bottleneck_size: int):
        super().__init__()
        self.down_proj = nn.Linear(hidden_size, bottleneck_size)
        self.up_proj = nn.Linear(bottleneck_size, hidden_size)
        self.scale = nn.Parameter(torch.ones(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.down_proj.weight, a=math.sqrt(5))
        for zero in (self.down_proj.bias, self.up_proj.weight, self.up_proj.bias):
            nn.init.zeros_(zero)
        nn.init.ones_(self.scale)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        bottleneck = F.relu(self.down_proj(hidden_states))  # (rows, sequence_length, bottleneck_size)
        return self.scale * self.up_proj(bottleneck)  # (rows, sequence_length, hidden_size)


class MixtureOfAdapters(nn.Module):
    """
    What the adapters of one feed-forward sub-layer add to it: `sum_k ratios[k][level] * A_k(h)`.

    With one adapter there is no router and nothing to route. With two, `router_ratios` holds a vector of `hidden_size`
    for each adapter and level (official `router_ratio1`, `router_ratio2`); they start as a switch that gives every
    level its own adapter.

    Args:
        hidden_size (`int`): Width of the LLM (`d_model`).
        bottleneck_size (`int`): Width of each adapter's hidden layer.
        num_adapters (`int`): 1, or one per level.
    """

    def __init__(self, hidden_size: int, bottleneck_size: int, num_adapters: int):
        super().__init__()
        self.adapters = nn.ModuleList(LionAdapter(hidden_size, bottleneck_size) for _ in range(num_adapters))
        if num_adapters > 1:
            self.router_ratios = nn.Parameter(torch.empty(num_adapters, NUM_LEVELS, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the router (the adapters initialise themselves)."""
        # transformers 5.0 initialises whole modules after loading, and does not recognise a part of a loaded parameter.
        if len(self.adapters) > 1 and not getattr(self.router_ratios, "_is_hf_initialized", False):
            with torch.no_grad():
                for k in range(len(self.adapters)):
                    for level in range(NUM_LEVELS):
                        nn.init.constant_(self.router_ratios[k, level], float(k == level))

    def forward(self, hidden_states: torch.Tensor, routing: LevelRouting | None = None) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(rows, sequence_length, hidden_size)`):
                Input of the sub-layer, before its norm. `rows` is a multiple of the routing's batch size.
            routing ([`LevelRouting`], *optional*): The levels of the batch; needed with two adapters.

        Returns:
            `torch.Tensor` of the same shape, in the dtype of the adapters.

        Raises:
            RuntimeError: two adapters, but no routing.
        """
        routed = len(self.adapters) > 1
        if routed and routing is None:
            raise RuntimeError(
                "The mixture of adapters needs the level of every sample: call the LION model with `level_ids` instead "
                "of calling its `language_model`."
            )
        # Under float16 the adapters stay in float32, because the residual stream of T5 may leave float16's range.
        # (Of the scale, because the weights of quantised layers are integers.)
        hidden_states = hidden_states.to(self.adapters[0].scale.dtype)
        if routing is not None and routing.single_level is not None and self._can_fold():
            if self not in routing.folded:
                routing.folded[self] = self._fold(routing.single_level)
            down_weight, down_bias, up_weight, up_bias = routing.folded[self]
            bottleneck = F.relu(F.linear(hidden_states, down_weight, down_bias))
            return F.linear(bottleneck, up_weight, up_bias)  # (rows, sequence_length, hidden_size)
        if not routed or routing is None:
            return self.adapters[0](hidden_states)
        level_ids = routing.expand(hidden_states.shape[0]).to(self.router_ratios.device)  # (rows,)
        ratios = self.router_ratios[:, level_ids].unsqueeze(2)  # (num_adapters, rows, 1, hidden_size)
        return sum(ratio * adapter(hidden_states) for ratio, adapter in zip(ratios, self.adapters))

    def _can_fold(self) -> bool:
        """Folding reads the weights directly: not where something wraps, quantises, offloads or shards them."""
        return all(
            type(layer) is nn.Linear
            and not layer.weight.is_meta
            # DeepSpeed leaves a weight empty until its layer is called.
            and layer.weight.shape == (layer.out_features, layer.in_features)
            for adapter in self.adapters
            for layer in (adapter.down_proj, adapter.up_proj)
        )

    @torch.no_grad()
    def _fold(self, level: int) -> tuple[torch.Tensor, ...]:
        """One bottleneck that does what all adapters and the router do for `level`."""
        dtype = self.adapters[0].up_proj.weight.dtype
        gains = [adapter.scale.float() for adapter in self.adapters]
        if len(self.adapters) > 1:
            gains = [gain * ratio.float() for gain, ratio in zip(gains, self.router_ratios[:, level])]
        # (num_adapters * bottleneck_size, hidden_size), and the other way round
        down_weight = torch.cat([adapter.down_proj.weight for adapter in self.adapters])
        down_bias = torch.cat([adapter.down_proj.bias for adapter in self.adapters])
        up_weight = torch.cat([g[:, None] * a.up_proj.weight for g, a in zip(gains, self.adapters)], dim=1)
        up_bias = sum(g * a.up_proj.bias for g, a in zip(gains, self.adapters))
        return down_weight, down_bias, up_weight.to(dtype), up_bias.to(dtype)
