"""
LION: InstructBLIP's vision tower and Q-Former and a T5, plus what LION adds: the vision aggregator's tokens, a mixture
of adapters routed by level, and image tags behind a soft prompt (Chen et al., CVPR 2024, arXiv 2311.11860).

The encoder of the LLM reads `[Q-Former tokens ; aggregator tokens ; text]`. Read top to bottom: parts, output
class, model. The parts that have files of their own are the vision tower, the vision aggregator and the LLM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, InstructBlipQFormerModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import ModelOutput, logging

from .configuration_lion import LEVELS, LionConfig
from .attention_lion import FLEX_TAKES_BIAS
from .hub_lion import LION_AUTO_MAP, LION_PIPELINES, SelfContainedModel
from .language_model_lion import LionT5ForConditionalGeneration
from .mixture_of_adapters_lion import LevelRouting
from .vision_aggregator_lion import LionVisionAggregator, LionZeroInitLinear
from .vision_model_lion import LionVisionModel
from .remote_code_lion import LION_CODE


logger = logging.get_logger(__name__)

_IGNORED_LABEL = -100
_DEFAULT_LEVEL = "image_level"


class LionLearnedTokens(nn.Module):
    """
    Learned vectors as a module of their own, so that what works on modules (PEFT's `modules_to_save`, say) finds them.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*shape))

    def forward(self) -> torch.Tensor:
        return self.weight


class LionAggregatorProjection(nn.Module):
    """From the tower's width over four times that width into the LLM's (official `adapter_proj`)."""

    def __init__(self, hidden_size: int, output_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, output_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        widened = F.gelu(self.fc1(hidden_states))  # (num_images, num_patches + 1, 4 * hidden_size)
        return self.fc2(widened)  # (num_images, num_patches + 1, output_size)


@dataclass
class LionImageFeatures(ModelOutput):
    """
    Everything about images that does not depend on the question: [`~LionForConditionalGeneration.encode_images`]
    makes it, `image_features=` takes it.

    Args:
        image_embeds (`torch.Tensor` of shape `(num_images, num_patches + 1, vision_hidden_size)`, *optional*):
            What the Q-Former reads; with the branch `"qformer"`.
        aggregator_embeds (`torch.Tensor` of shape `(num_images, num_patches + 1, d_model)`, *optional*):
            The visual tokens of the branch `"aggregator"`.
    """

    image_embeds: torch.FloatTensor | None = None
    aggregator_embeds: torch.FloatTensor | None = None

    @property
    def num_images(self) -> int:
        return next(iter(self.values())).shape[0]

    def select(self, index: Sequence[int] | torch.LongTensor) -> "LionImageFeatures":
        """The features of the images at `index`, repeats allowed: one row for each question to come."""
        index = torch.as_tensor(index)
        return LionImageFeatures(**{k: v[index.to(v.device)] for k, v in self.items()})


class LionPreTrainedModel(SelfContainedModel):
    config_class = LionConfig
    base_model_prefix = "lion"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = [
        "InstructBlipQFormerEmbeddings",
        "InstructBlipQFormerLayer",
        "LionT5Block",
        "LionVisionAggregatorLayer",
        "LionVisionBlock",
    ]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flex_attn = FLEX_TAKES_BIAS
    _can_compile_fullgraph = True
    _auto_map: ClassVar[dict[str, str]] = LION_AUTO_MAP
    _custom_pipelines: ClassVar[dict[str, Any]] = LION_PIPELINES
    _code: ClassVar[tuple[str, ...]] = LION_CODE
    # Under float16 only: T5's residual stream and `wo` outgrow its range (transformers issue 20287).
    _keep_in_fp32_modules = ["wo"]
    # What the stages train, and the output layer: small beside tower and LLM, and every answer goes through it.
    _modules_to_not_quantize: ClassVar[tuple[str, ...]] = (
        "adapter",
        "lm_head",
        r".*\.(adapter|lm_head)",
        "qformer",
        "language_projection",
        "vision_aggregator",
        "aggregator_projection",
    )

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LionZeroInitLinear):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, LionLearnedTokens):
            nn.init.normal_(module.weight, std=0.02)

    @staticmethod
    def _load_pretrained_model(*args: Any, **kwargs: Any) -> Any:
        loaded = PreTrainedModel._load_pretrained_model(*args, **kwargs)
        # transformers 4 finds weights on disk by their names in files, where the embeddings have one of their three.
        for index in (item for item in (loaded if isinstance(loaded, tuple) else ()) if isinstance(item, dict)):
            if (embeddings := index.get("language_model.shared.weight")) is not None:
                for stack in ("encoder", "decoder"):
                    index.setdefault(f"language_model.{stack}.embed_tokens.weight", embeddings)
        return loaded

    def mark_tied_weights_as_initialized(self, *loading_info: Any) -> None:
        """As in transformers 5, which would take embeddings that no file holds under any of their names for loaded."""
        missing = [set(info.missing_keys) for info in loading_info]  # transformers 5.0 gives none
        super().mark_tied_weights_as_initialized(*loading_info)
        tied = self.all_tied_weights_keys
        for names, info in zip(missing, loading_info):
            for source in names & set(tied.values()):
                if all(target in names for target, of in tied.items() if of == source):
                    info.missing_keys.add(source)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """
        As in transformers, but not re-entrant unless asked for: the aggregator reads a frozen tower, and re-entrant
        checkpoints give no gradient to layers whose inputs need none.
        """
        super().gradient_checkpointing_enable(
            {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}, **kwargs
        )


def pad_right(attention_mask: torch.Tensor, *others: torch.Tensor | None) -> list[Any]:
    """
    Move padding in front of a row behind it, in a mask `(batch_size, length)` and in what it belongs to: visual tokens
    stand before the text, and what is between the two would part them.
    """
    leading = (attention_mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)  # (batch_size, 1)
    order = torch.arange(attention_mask.shape[1], device=attention_mask.device) + leading  # (batch_size, length)
    order = order % attention_mask.shape[1]
    return [None if rows is None else rows.gather(1, order.to(rows.device)) for rows in (attention_mask, *others)]


def _refuse_inputs_embeds(kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("inputs_embeds") is not None:
        raise ValueError("`inputs_embeds` can't be given: LION makes them from `input_ids` and the image.")


class LionForConditionalGeneration(LionPreTrainedModel, GenerationMixin):
    """
    Answers an instruction about an image, with words or with boxes.

    Args:
        config ([`LionConfig`]): Sizes and switches.

    Example:

    ```python
    >>> from modeling_lion import AutoModelForVision2Seq
    >>> from transformers import AutoProcessor

    >>> model = AutoModelForVision2Seq.from_pretrained(repo, trust_remote_code=True)
    >>> processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
    >>> inputs = processor(images=image, text="What is on the left?", tags=["dog", "table"], return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    ```
    """

    def __init__(self, config: LionConfig):
        super().__init__(config)
        vision_width, llm_width = config.vision_config.hidden_size, config.text_config.d_model
        # transformers 4 has only the eager attention for the Q-Former.
        if config.qformer_config._attn_implementation == "sdpa" and not InstructBlipQFormerModel._supports_sdpa:
            config.qformer_config._attn_implementation = "eager"

        self.vision_model = LionVisionModel(config.vision_config)
        if "qformer" in config.visual_branches:
            # The tower's last norm is `ln_vision`, which has an epsilon of its own.
            self.vision_model.post_layernorm.eps = config.qformer_input_layer_norm_eps
            self.query_tokens = LionLearnedTokens(1, config.num_query_tokens, config.qformer_config.hidden_size)
            self.qformer = InstructBlipQFormerModel(config.qformer_config)
            self.language_projection = nn.Linear(config.qformer_config.hidden_size, llm_width)
        else:
            self.vision_model.post_layernorm = nn.Identity()
        if "aggregator" in config.visual_branches:
            aggregator_config = config.aggregator_config
            self.vision_aggregator = LionVisionAggregator(aggregator_config, vision_width)
            self.aggregator_norm = nn.LayerNorm(vision_width, eps=aggregator_config.output_layer_norm_eps)
            self.aggregator_projection = LionAggregatorProjection(vision_width, llm_width)
        self.soft_prompt = LionLearnedTokens(llm_width)
        self.language_model = LionT5ForConditionalGeneration(config.text_config, config.adapter_config)

        if config.adapter_config.adapters:
            self._keep_in_fp32_modules = [*self._keep_in_fp32_modules, "adapter"]
        self.set_active_branches(config.active_branches or config.visual_branches)
        # The official decoding; a checkpoint's generation_config.json takes its place.
        self.generation_config = GenerationConfig(
            num_beams=5,
            max_new_tokens=256,
            min_length=1,
            repetition_penalty=1.5,
            length_penalty=1.0,
            pad_token_id=config.text_config.pad_token_id,
            eos_token_id=config.text_config.eos_token_id,
            decoder_start_token_id=config.text_config.decoder_start_token_id,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_submodule(self, target: str) -> nn.Module:
        # What PEFT's prompt learning asks every model for. It would put its embeddings in front of LION's and call
        # `generate` without them.
        if target == "embeddings.word_embeddings":
            raise ValueError(
                "Prompt learning (prompt, prefix and P-tuning) can't be used: LION makes the embeddings that its LLM "
                "reads itself, visual tokens first. LoRA and LION_ADAPTER can."
            )
        return super().get_submodule(target)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The encoder of the LLM, or with `modality="image"` the vision tower."""
        if modality not in (None, "text", "image"):
            raise ValueError(f'`modality` must be "image", "text" or None, got {modality!r:.100}.')
        return self.vision_model if modality == "image" else self.language_model.get_encoder()

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the LLM knows."""
        return self.language_model.config.vocab_size

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        embeddings = self.language_model.resize_token_embeddings(*args, **kwargs)
        self.config.text_config.vocab_size = self.language_model.config.vocab_size
        return embeddings

    @property
    def active_branches(self) -> tuple[str, ...]:
        """The visual branches whose tokens the LLM sees."""
        return self._active_branches

    def set_active_branches(self, branches: Sequence[str], in_config: bool = True) -> None:
        """
        Restrict a model with two visual branches to one of them, as training stages 1 and 2 do, or lift that again.

        Args:
            branches (`Sequence[str]`): What the LLM sees.
            in_config (`bool`): Whether a model that is saved now sees the same when it is loaded.

        Raises:
            ValueError: no branch, or one that the configuration doesn't have.
        """
        if not branches or not set(branches) <= set(self.config.visual_branches):
            raise ValueError(
                f"`branches` must hold one or more of this model's {self.config.visual_branches}, got {list(branches)}."
            )
        self._active_branches = tuple(b for b in self.config.visual_branches if b in branches)
        if in_config:
            everything = len(self._active_branches) == len(self.config.visual_branches)
            self.config.active_branches = None if everything else list(self._active_branches)

    def encode_images(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> LionImageFeatures:
        """
        Run everything that looks at the images alone: vision tower, aggregator, its projection. One encoding serves
        any number of questions.

        Args:
            pixel_values (`torch.Tensor` of shape `(num_images, 3, height, width)`): Normalised images.
            interpolate_pos_encoding (`bool`): Whether to fit the position embeddings to another image size.
        """
        aggregator_config = self.config.aggregator_config
        with_aggregator = "aggregator" in self.active_branches
        kept_blocks = {aggregator_config.query_layer, *aggregator_config.context_layers} if with_aggregator else ()
        # All of them (num_images, num_patches + 1, vision_hidden_size)
        image_embeds, kept = self.vision_model(
            pixel_values, kept_blocks=kept_blocks, interpolate_pos_encoding=interpolate_pos_encoding
        )
        features = LionImageFeatures()
        if "qformer" in self.active_branches:
            features["image_embeds"] = image_embeds
        if with_aggregator:
            aggregated = self.vision_aggregator(
                kept[aggregator_config.query_layer], [kept[i] for i in aggregator_config.context_layers]
            )
            # (num_images, num_patches + 1, d_model)
            features["aggregator_embeds"] = self.aggregator_projection(self.aggregator_norm(aggregated))
        return features

    def get_visual_embeds(
        self,
        image_features: LionImageFeatures,
        qformer_input_ids: torch.LongTensor | None = None,
        qformer_attention_mask: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """
        The visual tokens in front of the text, `(batch_size, num_image_tokens, d_model)`: 32 from the Q-Former, which
        reads the image in the light of the instruction, then all of the aggregator's.
        """
        for branch, name in (("qformer", "image_embeds"), ("aggregator", "aggregator_embeds")):
            if branch in self.active_branches and image_features.get(name) is None:
                raise ValueError(f"`image_features` lacks `{name}`, which the visual branch {branch!r} needs.")
        tokens = []
        if "qformer" in self.active_branches:
            if qformer_input_ids is None:
                raise ValueError("`qformer_input_ids` is needed: the Q-Former reads the instruction.")
            image_embeds = image_features["image_embeds"]
            batch_size = qformer_input_ids.shape[0]
            # (batch_size, num_query_tokens, qformer_hidden_size)
            queries = self.query_tokens().expand(batch_size, -1, -1).to(image_embeds.device)
            if qformer_attention_mask is None:
                qformer_attention_mask = torch.ones_like(qformer_input_ids)  # type: ignore[assignment]
            query_mask = qformer_input_ids.new_ones(queries.shape[:2])
            outputs = self.qformer(
                input_ids=qformer_input_ids,
                attention_mask=torch.cat([query_mask, qformer_attention_mask], dim=1),
                query_embeds=queries,
                encoder_hidden_states=image_embeds,
                encoder_attention_mask=image_embeds.new_ones(image_embeds.shape[:2], dtype=torch.long),
            )
            # Of (batch_size, num_query_tokens + qformer_length, qformer_hidden_size) what stands in the queries' places
            tokens.append(self.language_projection(outputs.last_hidden_state[:, : queries.shape[1]]))
        if "aggregator" in self.active_branches:
            tokens.append(image_features["aggregator_embeds"])
        # (batch_size, num_image_tokens, d_model)
        return torch.cat([t.to(tokens[0].device, tokens[0].dtype) for t in tokens], dim=1)

    def prepare_encoder_inputs(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        qformer_input_ids: torch.LongTensor | None = None,
        qformer_attention_mask: torch.LongTensor | None = None,
        soft_prompt_mask: torch.LongTensor | None = None,
        image_features: LionImageFeatures | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> tuple[torch.Tensor, torch.LongTensor]:
        """
        Put visual tokens, text and soft prompt together (arguments as in [`~LionForConditionalGeneration.forward`]).

        Returns:
            Input embeddings `(batch_size, num_image_tokens + sequence_length, d_model)` and their attention mask.
        """
        if input_ids is None:
            raise ValueError("`input_ids` is needed: LION answers an instruction.")
        if (pixel_values is None) == (image_features is None):
            raise ValueError("Exactly one of `pixel_values` and `image_features` must be given.")
        if image_features is None:
            image_features = self.encode_images(pixel_values, interpolate_pos_encoding)
        batch_size = input_ids.shape[0]
        if image_features.num_images == 1 and batch_size > 1:
            image_features = image_features.select([0] * batch_size)
        if image_features.num_images != batch_size:
            raise ValueError(
                f"{image_features.num_images} images for {batch_size} instructions: give one image per row of "
                "`input_ids`, or a single one for all (`image_features.select` repeats rows)."
            )

        missing = 0 if soft_prompt_mask is None else input_ids.shape[1] - soft_prompt_mask.shape[1]
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        elif missing:  # a mask of another length counts from the text's first token
            attention_mask, input_ids = pad_right(attention_mask, input_ids)
        else:
            attention_mask, input_ids, soft_prompt_mask = pad_right(attention_mask, input_ids, soft_prompt_mask)
        if qformer_attention_mask is not None:
            qformer_attention_mask, qformer_input_ids = pad_right(qformer_attention_mask, qformer_input_ids)
        embeds = self.get_input_embeddings()(input_ids)  # (batch_size, sequence_length, d_model)
        if soft_prompt_mask is not None:
            prompt = self.soft_prompt().to(embeds.device, embeds.dtype)  # (d_model,)
            soft_prompt_mask = F.pad(soft_prompt_mask, (0, missing))  # (batch_size, sequence_length)
            embeds = torch.where(soft_prompt_mask.unsqueeze(-1).bool(), prompt, embeds)
        visual = self.get_visual_embeds(image_features, qformer_input_ids, qformer_attention_mask)
        return (
            torch.cat([visual.to(embeds.device, embeds.dtype), embeds], dim=1),
            torch.cat([attention_mask.new_ones(visual.shape[:2]), attention_mask], dim=1),
        )

    def _routing(self, level_ids: Any, task_ids: Any, inputs_embeds: torch.Tensor, reuse: bool = False) -> LevelRouting:
        """The levels of a batch, under their name or the one they had before."""
        if level_ids is not None and task_ids is not None:
            raise ValueError("`task_ids` is the former name of `level_ids`: only one of them must be given.")
        level_ids = task_ids if level_ids is None else level_ids
        batch_size, device = inputs_embeds.shape[0], inputs_embeds.device
        if level_ids is None:
            if self.language_model.needs_routing and not torch.compiler.is_compiling():
                logger.warning_once(
                    "This LION has adapters of several levels, but was called without `level_ids`: all samples are "
                    f"taken as {_DEFAULT_LEVEL}. The processor makes `level_ids` of the prompts."
                )
            level_ids = torch.full((batch_size,), LEVELS.index(_DEFAULT_LEVEL), device=device)
        if tuple(level_ids.shape) != (batch_size,):
            raise ValueError(f"`level_ids` must have the shape ({batch_size},), got {tuple(level_ids.shape)}.")
        if level_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            unknown = sorted(set(level_ids.tolist()) - set(range(len(LEVELS))))
            if unknown:
                raise ValueError(f"`level_ids` holds {unknown}; levels are {dict(enumerate(LEVELS))}.")
        return LevelRouting(level_ids.to(device), reuse=reuse)

    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        qformer_input_ids: torch.LongTensor | None = None,
        qformer_attention_mask: torch.LongTensor | None = None,
        level_ids: torch.LongTensor | None = None,
        soft_prompt_mask: torch.LongTensor | None = None,
        image_features: LionImageFeatures | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        interpolate_pos_encoding: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
        return_dict: bool | None = None,
        task_ids: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput | tuple:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): Normalised images; one for
                all rows is enough. Not with `image_features`.
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): The prompt, with tag sentence.
            attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): 1 = read it.
            qformer_input_ids (`torch.LongTensor` of shape `(batch_size, qformer_length)`): The instruction alone, in
                the Q-Former's vocabulary; needed with the branch `"qformer"`.
            qformer_attention_mask (`torch.LongTensor` of shape `(batch_size, qformer_length)`, *optional*): As
                `attention_mask`, for `qformer_input_ids`.
            level_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*): 0 = region level, 1 = image level, for
                each row; image level by default. `task_ids`, its former name, is taken as well.
            soft_prompt_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): 1 where the soft prompt
                takes the place of a token. It may be shorter than the prompt; then it stands for the text's first
                tokens, wherever padding is.
            image_features ([`LionImageFeatures`], *optional*): What `encode_images` gave.
            labels (`torch.LongTensor` of shape `(batch_size, answer_length)`, *optional*): The answer; -100 is ignored.
            num_items_in_batch (`int`, *optional*): The number of label tokens to divide the summed loss by (gradient
                accumulation); without it the loss is their mean.
        """
        # Wrappers such as PEFT's pass every argument of a seq2seq model, most of them None.
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        _refuse_inputs_embeds(kwargs)
        inputs_embeds, attention_mask = self.prepare_encoder_inputs(
            pixel_values,
            input_ids,
            attention_mask,
            qformer_input_ids,
            qformer_attention_mask,
            soft_prompt_mask,
            image_features,
            interpolate_pos_encoding,
        )
        routing = self._routing(level_ids, task_ids, inputs_embeds)
        if decoder_input_ids is None and "decoder_inputs_embeds" not in kwargs:
            if labels is None:
                raise ValueError(
                    "`labels` or `decoder_input_ids` must be given (`prepare_decoder_input_ids_from_labels` makes the "
                    "latter); to get an answer, call `generate`."
                )
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            if decoder_attention_mask is None and not {"past_key_values", "cache"} & kwargs.keys():
                decoder_attention_mask = (labels != _IGNORED_LABEL).long()
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            return_dict=True,
            routing=routing,
            **kwargs,
        )
        if labels is not None:
            outputs["loss"] = self._answer_loss(outputs.logits, labels, num_items_in_batch)
            outputs.move_to_end("loss", last=False)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()

    @staticmethod
    def _answer_loss(
        logits: torch.Tensor, labels: torch.LongTensor, num_items_in_batch: int | torch.Tensor | None
    ) -> torch.Tensor:
        """Cross entropy in float32, as a mean or as a share of `num_items_in_batch` tokens."""
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten().to(logits.device),
            ignore_index=_IGNORED_LABEL,
            reduction=reduction,
        )
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.to(loss.device)
        return loss if num_items_in_batch is None else loss / num_items_in_batch

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """What the decoder reads while it is trained to say `labels` `(batch_size, answer_length)`."""
        return self.language_model.prepare_decoder_input_ids_from_labels(labels)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        qformer_input_ids: torch.LongTensor | None = None,
        qformer_attention_mask: torch.LongTensor | None = None,
        level_ids: torch.LongTensor | None = None,
        soft_prompt_mask: torch.LongTensor | None = None,
        image_features: LionImageFeatures | None = None,
        interpolate_pos_encoding: bool = False,
        generation_config: GenerationConfig | None = None,
        task_ids: torch.LongTensor | None = None,
        **generate_kwargs: Any,
    ) -> torch.LongTensor | ModelOutput:
        """
        Answer every row of the batch. The inputs are those of [`~LionForConditionalGeneration.forward`]; everything
        else is [`~transformers.GenerationMixin.generate`]'s.

        Returns:
            `torch.LongTensor` of shape `(batch_size * num_return_sequences, answer_length)`: token ids of the answers,
            or the output class that `return_dict_in_generate` asks for.
        """
        _refuse_inputs_embeds(generate_kwargs)
        if generate_kwargs.get("assistant_model") is not None:
            raise ValueError(
                "`assistant_model` can't be given: an assistant would have to see the image as well. "
                "`prompt_lookup_num_tokens` speeds up answers that repeat themselves without one."
            )
        inputs_embeds, attention_mask = self.prepare_encoder_inputs(
            pixel_values,
            input_ids,
            attention_mask,
            qformer_input_ids,
            qformer_attention_mask,
            soft_prompt_mask,
            image_features,
            interpolate_pos_encoding,
        )
        # What the arguments leave open, `generate` takes from this model's own settings, as it does for every model.
        self.language_model.generation_config = self.generation_config
        return self.language_model.generate(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            generation_config=generation_config,
            routing=self._routing(level_ids, task_ids, inputs_embeds, reuse=True),
            **generate_kwargs,
        )

    @torch.no_grad()
    def score_candidates(
        self, inputs: Mapping[str, Any], candidates: torch.LongTensor, length_normalize: bool = False
    ) -> torch.Tensor:
        """
        Log-likelihood of candidate answers: for multiple choice, yes/no statements, ranked dialogue answers. The
        image and the instruction are encoded once for all candidates.

        Args:
            inputs (`Mapping`): What the processor returned for `batch_size` instructions (or `image_features`).
            candidates (`torch.LongTensor` of shape `(batch_size, num_candidates, answer_length)`): Token ids with
                end-of-sequence, followed by -100 (`processor.encode_candidates`). Of shape
                `(num_candidates, answer_length)` for the same candidates in every row.
            length_normalize (`bool`): Whether to divide by the number of tokens.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_candidates)`.
        """
        encoder_keys = {
            "pixel_values",
            "input_ids",
            "attention_mask",
            "qformer_input_ids",
            "qformer_attention_mask",
            "soft_prompt_mask",
            "image_features",
        }
        inputs_embeds, attention_mask = self.prepare_encoder_inputs(
            **{name: value for name, value in inputs.items() if name in encoder_keys}
        )
        batch_size = inputs_embeds.shape[0]
        if candidates.dim() == 2:
            candidates = candidates.expand(batch_size, -1, -1)
        if candidates.dim() != 3 or candidates.shape[0] != batch_size:
            raise ValueError(
                f"`candidates` must be (num_candidates, length) or ({batch_size}, num_candidates, length), got "
                f"{tuple(candidates.shape)}."
            )
        labels = candidates.flatten(0, 1).to(inputs_embeds.device)
        # The processor's output can be read under both names, but holds one.
        former = inputs["task_ids"] if "task_ids" in inputs else None
        routing = self._routing(inputs.get("level_ids"), former, inputs_embeds, reuse=True)
        encoded = self.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=attention_mask, routing=routing)
        logits = self.language_model(
            encoder_outputs=BaseModelOutput(encoded.last_hidden_state),
            attention_mask=attention_mask,
            decoder_input_ids=self.prepare_decoder_input_ids_from_labels(labels),
            use_cache=False,
            routing=routing,
        ).logits  # (batch_size * num_candidates, answer_length, vocab_size)
        token_losses = F.cross_entropy(
            logits.transpose(1, 2).float(),
            labels.to(logits.device),
            ignore_index=_IGNORED_LABEL,
            reduction="none",
        )
        scores = -token_losses.sum(dim=-1)
        if length_normalize:
            scores = scores / (labels != _IGNORED_LABEL).sum(dim=-1).clamp(min=1).to(scores.device)
        return scores.view(batch_size, -1)


if False:  # Never runs: names the files that belong to this one, for transformers to copy them.
    from .configuration_lion import __name__ as _
    from .configuration_ram import __name__ as _
    from .validation_lion import __name__ as _
    from .attention_lion import __name__ as _
    from .handler import __name__ as _
    from .hub_lion import __name__ as _
    from .language_model_lion import __name__ as _
    from .mixture_of_adapters_lion import __name__ as _
    from .modeling_ram import __name__ as _
    from .pipeline_lion import __name__ as _
    from .tagger_lion import __name__ as _
    from .vision_aggregator_lion import __name__ as _
    from .vision_model_lion import __name__ as _
    from .fetching_lion import __name__ as _
    from .grounding_lion import __name__ as _
    from .image_loading_lion import __name__ as _
    from .image_processing_lion import __name__ as _
    from .levels_lion import __name__ as _
    from .panics_lion import __name__ as _
    from .processing_lion import __name__ as _
    from .prompts_lion import __name__ as _
    from .remote_code_lion import __name__ as _
