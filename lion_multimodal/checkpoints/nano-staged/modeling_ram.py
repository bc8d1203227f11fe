"""RAM image tagger ("Recognize Anything", arXiv 2306.03514): Swin features, read by one query per tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import SwinModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .configuration_ram import RamConfig
from .attention_lion import attend_with_weights
from .hub_lion import RAM_AUTO_MAP, SelfContainedModel
from .remote_code_lion import TAGGER_CODE


@dataclass
class RamOutput(ModelOutput):
    """
    Output of [`RamForImageTagging`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): asymmetric loss, summed over batch and tags; float32.
        logits (`torch.FloatTensor` of shape `(batch_size, num_tags)`): score of each tag before the sigmoid.
        image_embeds (`torch.FloatTensor` of shape `(batch_size, 1 + num_patches, projection_dim)`): projected image
            features, the mean token first.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*, with `output_hidden_states=True`): the image encoder's:
            after its embeddings, then after each stage.
        attentions (`tuple(torch.FloatTensor)`, *optional*, with `output_attentions=True`): the image encoder's, of each
            stage's first block, by windows, as transformers' Swin gives them.
        tag_hidden_states (`tuple(torch.FloatTensor)`, *optional*, with `output_hidden_states=True`): the tag queries of
            shape `(batch_size, num_tags, hidden_size)`, before the tagging head and after each of its layers.
        cross_attentions (`tuple(torch.FloatTensor)`, *optional*, with `output_attentions=True`): of each layer of the
            tagging head, `(batch_size, num_heads, num_tags, 1 + num_patches)`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    tag_hidden_states: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


def asymmetric_loss(
    logits: torch.Tensor, labels: torch.Tensor, gamma_neg: float = 7.0, gamma_pos: float = 0.0, clip: float = 0.05
) -> torch.Tensor:
    """
    Asymmetric loss for multi-label classification (arXiv 2009.14119, eq. 7), as RAM trains with it.

    The focusing weights carry no gradient, and the result is the sum over all entries, both as in the official code.

    Args:
        logits (`torch.Tensor`): scores before the sigmoid, any shape.
        labels (`torch.Tensor`): 1 where the tag applies, else 0; shape of `logits`.
        gamma_neg, gamma_pos (`float`): focusing exponents of negative and positive entries.
        clip (`float`): margin by which the probability of a negative entry is lowered before it counts.

    Returns:
        `torch.Tensor` of shape `()`, float32.
    """
    labels = labels.float()
    positive = logits.float().sigmoid()
    negative = (1 - positive + clip).clamp(max=1)
    log_likelihood = labels * positive.clamp(min=1e-8).log() + (1 - labels) * negative.clamp(min=1e-8).log()
    with torch.no_grad():
        probability = torch.lerp(negative, positive, labels)
        weight = (1 - probability) ** (gamma_neg + (gamma_pos - gamma_neg) * labels)
    return -(weight * log_likelihood).sum()


class RamCrossAttention(nn.Module):
    """Multi-head attention of the tag queries to the image tokens."""

    is_causal = False

    def __init__(self, config: RamConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.projection_dim, config.hidden_size)
        self.value = nn.Linear(config.projection_dim, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, image_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(1 or B, num_tags, hidden_size) and (B, tokens, projection_dim) -> (B, num_tags, hidden_size), weights."""
        query, key, value = (  # each (1 or batch_size, num_heads, num_tags or tokens, head_dim)
            projection.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.query(hidden_states), self.key(image_embeds), self.value(image_embeds))
        )
        query = query.expand(key.shape[0], -1, -1, -1)
        dropout = self.config.attention_probs_dropout_prob
        attended, weights = attend_with_weights(self, query, key, value, dropout)
        return self.output(attended), weights


class RamTaggingLayer(GradientCheckpointingLayer):
    """Post-norm layer of cross-attention and FFN. Tags do not attend to one another."""

    def __init__(self, config: RamConfig) -> None:
        super().__init__()
        self.attention = RamCrossAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, image_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(1 or B, num_tags, hidden_size) and (B, tokens, projection_dim) -> (B, num_tags, hidden_size), weights."""
        attended, weights = self.attention(hidden_states, image_embeds)
        hidden_states = self.attention_norm(self.dropout(attended) + hidden_states)
        expanded = self.dropout(self.fc2(self.activation(self.fc1(hidden_states))))
        return self.output_norm(expanded + hidden_states), weights


class RamTaggingHead(nn.Module):
    """The stack of tagging layers."""

    def __init__(self, config: RamConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RamTaggingLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, queries: torch.Tensor, image_embeds: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        """
        (1, num_tags, hidden_size) and (B, tokens, projection_dim) -> the queries (B, num_tags, hidden_size) before the
        first layer and after each, and each layer's attention weights.
        """
        states, all_weights = [queries.expand(image_embeds.shape[0], -1, -1)], []
        for layer in self.layers:
            queries, weights = layer(queries, image_embeds)
            states.append(queries)
            all_weights.append(weights)
        return states, all_weights


class RamForImageTagging(SelfContainedModel):
    """
    RAM: an image encoder (transformers' Swin) whose tokens are read by one learnt query per tag.

    Tags are compared with one threshold each. `pixel_values` are RGB, resized to the encoder's `image_size` without a
    crop, normalised with ImageNet's mean and standard deviation.
    """

    config_class = RamConfig
    base_model_prefix = "ram"
    _auto_map: ClassVar[dict[str, str]] = RAM_AUTO_MAP
    _code: ClassVar[tuple[str, ...]] = TAGGER_CODE
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SwinStage", "RamTaggingLayer"]
    # A buffer that Swin computes itself: transformers 4 writes it into checkpoints, 5 does not.
    _keys_to_ignore_on_load_missing = [r"relative_position_index"]
    _keys_to_ignore_on_load_unexpected = [r"relative_position_index"]

    def __init__(self, config: RamConfig) -> None:
        super().__init__(config)
        if (
            not SwinModel._supports_sdpa
        ):  # transformers 4: the encoder has one attention, and refuses to be asked for another
            config.vision_config._attn_implementation = "eager"
        self.vision_model = SwinModel(config.vision_config, add_pooling_layer=False)
        self.image_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim)
        self.label_embeddings = nn.Embedding(config.num_tags, config.projection_dim)
        self.label_projection = nn.Linear(config.projection_dim, config.hidden_size)
        self.tagging_head = RamTaggingHead(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers 5 protects loaded weights only from the functions of torch.nn.init.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            # Rows of about unit length, as the text embeddings that RAM starts from.
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)

    def get_input_embeddings(self) -> nn.Module:
        """What makes hidden states of pixels: the convolution over patches."""
        return self.vision_model.embeddings.patch_embeddings.projection

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vision_model.embeddings.patch_embeddings.projection = value

    def enable_input_require_grads(self) -> None:
        """As in transformers, whose own hook expects that Swin's patch embeddings give a tensor alone."""
        if getattr(self, "_require_grads_hook", None) is None:
            self._require_grads_hook = self.get_input_embeddings().register_forward_hook(
                lambda module, inputs, output: output.requires_grad_(True)
            )

    def disable_input_require_grads(self) -> None:
        """Take that back."""
        if getattr(self, "_require_grads_hook", None) is not None:
            self._require_grads_hook.remove()
            self._require_grads_hook = None

    def get_image_features(
        self, pixel_values: torch.Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple[torch.Tensor, ...]:
        """
        What the tagging head reads of images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): Normalised images.
            return_dict (`bool`, *optional*): False for a tuple.
            kwargs: `output_hidden_states`, `output_attentions`: the image encoder's.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `last_hidden_state`, the Swin tokens behind
            their mean, of shape `(batch_size, 1 + num_patches, vision_hidden_size)`; `pooler_output`, the same after
            the projection, of shape `(batch_size, 1 + num_patches, projection_dim)`.
        """
        encoded = self.vision_model(pixel_values.to(self.vision_model.dtype), return_dict=True, **kwargs)
        tokens = torch.cat([encoded.last_hidden_state.mean(dim=1, keepdim=True), encoded.last_hidden_state], dim=1)
        features = BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=self.image_projection(tokens),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return self._as_asked(features, return_dict)

    def _as_asked(self, output: ModelOutput, return_dict: bool | None) -> Any:
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RamOutput | tuple[torch.Tensor, ...]:
        """
        Score every tag for every image.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): normalised images.
            labels (`torch.Tensor` of shape `(batch_size, num_tags)`, *optional*): 1 where a tag applies, else 0.
            output_attentions (`bool`, *optional*): whether to return attention weights, with `"eager"` attention.
            output_hidden_states (`bool`, *optional*): whether to return hidden states.
            return_dict (`bool`, *optional*): False for a tuple.

        Returns:
            [`RamOutput`], or a tuple of its entries that are not None.

        Raises:
            ValueError: `labels` does not have the shape of the logits, or attention weights are asked of an
                implementation that makes none.
        """
        with_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if with_attentions and self.config._attn_implementation not in (None, "eager"):
            raise ValueError(
                "`output_attentions=True` needs attention weights, which only `attn_implementation='eager'` makes, "
                f"got {self.config._attn_implementation!r:.100}"
            )
        features: Any = self.get_image_features(
            pixel_values, return_dict=True, output_attentions=with_attentions, output_hidden_states=with_states
        )
        image_embeds = features.pooler_output  # (batch_size, 1 + num_patches, projection_dim)
        # Until the first attention the queries are the same for all images, so they are computed once.
        queries = self.label_projection(self.label_embeddings.weight).relu().unsqueeze(0)  # (1, num_tags, hidden_size)
        states, weights = self.tagging_head(queries, image_embeds)
        logits = self.classifier(states[-1]).squeeze(-1)  # (batch_size, num_tags)

        loss = None
        if labels is not None:
            if labels.shape != logits.shape:
                raise ValueError(
                    f"labels must be of shape (batch_size, num_tags) = {tuple(logits.shape)}, got {tuple(labels.shape)}"
                )
            loss = asymmetric_loss(
                logits,
                labels.to(logits.device),
                gamma_neg=self.config.loss_gamma_neg,
                gamma_pos=self.config.loss_gamma_pos,
                clip=self.config.loss_clip,
            )
        output = RamOutput(
            loss=loss,
            logits=logits,
            image_embeds=image_embeds,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
            tag_hidden_states=tuple(states) if with_states else None,
            cross_attentions=tuple(weights) if with_attentions else None,
        )
        return self._as_asked(output, return_dict)

    @torch.no_grad()
    def generate_tags(
        self,
        pixel_values: torch.Tensor,
        language: str = "en",
        thresholds: float | Sequence[float] | torch.Tensor | None = None,
        return_scores: bool = False,
    ) -> list[list[str]] | list[list[tuple[str, float]]]:
        """
        The tags whose probability exceeds their threshold, in the order of the configuration.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): normalised images.
            language (`str`): `"en"` for `config.tags`, `"zh"` for `config.tags_zh`.
            thresholds (`float` or one `float` per tag, *optional*): in place of `config.thresholds`; in [0, 1].
            return_scores (`bool`): whether to return each tag with its probability.

        Returns:
            `list[list[str]]`: the tags of each image; with `return_scores`, pairs of tag and probability.

        Raises:
            ValueError: unknown language, a configuration without tags in that language, or thresholds of wrong length
                or outside of [0, 1].
        """
        fields = {"en": "tags", "zh": "tags_zh"}
        if language not in fields:
            raise ValueError(f"language must be one of {sorted(fields)}, got {language!r:.100}")
        tags = getattr(self.config, fields[language])
        if tags is None:
            raise ValueError(f"this tagger has no tag names for language {language!r}: set config.{fields[language]}")
        try:
            limits = torch.as_tensor(self.config.thresholds if thresholds is None else thresholds, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"thresholds must be a number or one for each tag, got {thresholds!r:.100}") from None
        if limits.ndim and limits.shape != (len(tags),):
            raise ValueError(f"thresholds must be one number or {len(tags)} of them, got shape {tuple(limits.shape)}")
        if thresholds is not None and not bool(((limits >= 0) & (limits <= 1)).all()):
            raise ValueError(f"thresholds must lie in [0, 1], got {thresholds!r:.100}")
        probabilities = self(pixel_values, return_dict=True).logits.float().sigmoid()
        chosen = (probabilities > limits.to(probabilities.device)).cpu()
        found = [row.nonzero().flatten().tolist() for row in chosen]
        if return_scores:
            scores = probabilities.cpu()
            return [[(tags[i], float(scores[n, i])) for i in indices] for n, indices in enumerate(found)]
        return [[tags[index] for index in indices] for indices in found]


__all__ = ["RamForImageTagging", "RamOutput", "asymmetric_loss"]


if False:  # Never runs: names the files that belong to this one, for transformers to copy them.
    from .fetching_lion import __name__ as _
    from .image_loading_lion import __name__ as _
    from .image_processing_lion import __name__ as _
    from .remote_code_lion import __name__ as _
    from .configuration_ram import __name__ as _
    from .validation_lion import __name__ as _
    from .attention_lion import __name__ as _
    from .hub_lion import __name__ as _
