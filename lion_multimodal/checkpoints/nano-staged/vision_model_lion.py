"""
The vision tower: EVA-CLIP's ViT in the names and sizes of InstructBLIP's, which keeps the outputs of the blocks it is
asked for. Read top to bottom: embeddings, attention, block, tower.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import InstructBlipVisionConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_lion import MultiHeadAttention


class LionVisionEmbeddings(nn.Module):
    """Patches of the image and one class token, each with a learned position."""

    def __init__(self, config: InstructBlipVisionConfig):
        super().__init__()
        self.image_size = config.image_size
        self.patch_size = config.patch_size
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Parameter(torch.zeros(1, self.num_patches + 1, config.hidden_size))

    def interpolated_positions(self, height: int, width: int) -> torch.Tensor:
        """The positions of a grid of `height` x `width` patches, `(1, height * width + 1, hidden_size)`."""
        side = self.image_size // self.patch_size
        if height == width == side:
            return self.position_embedding
        class_position, positions = self.position_embedding[:, :1], self.position_embedding[:, 1:]
        positions = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, hidden_size, side, side)
        positions = F.interpolate(positions, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([class_position, positions.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        height, width = pixel_values.shape[-2:]  # pixel_values: (num_images, 3, height, width)
        if interpolate_pos_encoding:
            positions = self.interpolated_positions(height // self.patch_size, width // self.patch_size)
        else:
            if (height, width) != (self.image_size, self.image_size):
                raise ValueError(
                    f"`pixel_values` must be images of {self.image_size} x {self.image_size} pixels, got {height} x "
                    f"{width}. `interpolate_pos_encoding=True` fits the position embeddings to another size."
                )
            positions = self.position_embedding
        dtype = self.patch_embedding.weight.dtype
        patches = self.patch_embedding(pixel_values.to(dtype))  # (num_images, hidden_size, rows, columns)
        patches = patches.flatten(2).transpose(1, 2)  # (num_images, num_patches, hidden_size)
        class_token = self.class_embedding.to(dtype).expand(patches.shape[0], -1, -1)
        return torch.cat([class_token, patches], dim=1) + positions.to(dtype)


class LionVisionAttention(MultiHeadAttention):
    """Self-attention over the tokens of an image, with one matrix for queries, keys and values."""

    def __init__(self, config: InstructBlipVisionConfig):
        super().__init__(config, config.hidden_size // config.num_attention_heads, config.attention_dropout)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        queries, keys, values = self.qkv(hidden_states).chunk(3, dim=-1)  # (num_images, num_patches + 1, hidden_size)
        attended, _ = self.attend(self.split_heads(queries), self.split_heads(keys), self.split_heads(values))
        return self.projection(attended)


class LionVisionMLP(nn.Module):
    """Feed-forward layer of a block."""

    def __init__(self, config: InstructBlipVisionConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class LionVisionBlock(GradientCheckpointingLayer):
    """Attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: InstructBlipVisionConfig):
        super().__init__()
        self.self_attn = LionVisionAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = LionVisionMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states))
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class LionVisionEncoder(nn.Module):
    """The blocks, one after the other."""

    def __init__(self, config: InstructBlipVisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(LionVisionBlock(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, hidden_states: torch.Tensor, kept_blocks: Sequence[int]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        kept = {}
        for index, block in enumerate(self.layers):
            hidden_states = block(hidden_states)  # (num_images, num_patches + 1, hidden_size)
            if index in kept_blocks:
                kept[index] = hidden_states
        return hidden_states, kept


class LionVisionModel(PreTrainedModel):
    """
    Args:
        config (`InstructBlipVisionConfig`): Sizes.
    """

    config_class = InstructBlipVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ["LionVisionBlock"]

    def __init__(self, config: InstructBlipVisionConfig):
        super().__init__(config)
        self.embeddings = LionVisionEmbeddings(config)
        self.encoder = LionVisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, LionVisionEmbeddings):
            nn.init.trunc_normal_(module.class_embedding, std=std)
            nn.init.trunc_normal_(module.position_embedding, std=std)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(
        self,
        pixel_values: torch.Tensor,
        kept_blocks: Sequence[int] = (),
        interpolate_pos_encoding: bool = False,
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(num_images, 3, height, width)`): Normalised images.
            kept_blocks (`Sequence[int]`): 0-based blocks whose outputs to return, without a norm.
            interpolate_pos_encoding (`bool`): Whether to fit the position embeddings to another image size.

        Returns:
            The last block's output after `post_layernorm` (official `ln_vision`), and the kept outputs by block; each
            of shape `(num_images, num_patches + 1, hidden_size)`.

        Raises:
            ValueError: images of another size than the tower's, without `interpolate_pos_encoding`.
        """
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding)
        hidden_states, kept = self.encoder(hidden_states, kept_blocks)
        return self.post_layernorm(hidden_states), kept
