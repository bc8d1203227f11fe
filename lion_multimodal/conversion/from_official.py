"""
The released files made into one self-contained checkpoint, in the memory of a few tensors.

Sources are the learnt parts, the vision tower and the T5, and the tagger beside them. The directory gets its name when
all of it is there.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from configuration_lion.configuration_lion import LionConfig
from configuration_lion.configuration_ram import RamConfig
from lion_multimodal.conversion.checkpoint import expected_shapes
from lion_multimodal.conversion.files import (
    checksum,
    find_weights,
    new_directory,
    open_weights,
    release,
    reveal,
    stored_tensors,
    write_shards,
)
from lion_multimodal.conversion.layout import infer_lion_config, infer_ram_config, read_json, released_name
from lion_multimodal.conversion.plan import ConversionError, Source, official_shapes, open_source, plan_conversion
from lion_multimodal.conversion.ram import convert_ram_checkpoint
from modeling_lion.hub_lion import LION_AUTO_MAP, LION_PIPELINES, TAGGER_SUBFOLDER
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionImageProcessor, LionProcessor, add_qformer_bos_token
from processing_lion.panics_lion import named_tokenizer_errors
from processing_lion.remote_code_lion import LION_CODE, write_code
from trainers.publishing.lion_card import CardFacts, render_card
from trainers.publishing.selection import CARD


logger = logging.getLogger(__name__)

VISION_PREFIX = "visual_encoder."
TEXT_PREFIX = "t5_model."
_CONFIG = "config.json"


@dataclass
class OfficialFiles:
    """
    The files that make up a released LION.

    Args:
        checkpoint (`Path`): The learnt parts, perhaps with frozen ones (`LION-FlanT5-XL.pth`).
        text_model (`Path`): Directory with configuration and tokenizer of the T5, and with its weights unless
            `checkpoint` holds them.
        qformer_tokenizer (`Path`): Directory with the tokenizer of the Q-Former (`bert-base-uncased`).
        vision (`Path`, *optional*): The vision tower (`eva_vit_g.pth`), unless `checkpoint` holds it.
        config (`Path`, *optional*): A LION configuration, for sizes that weights don't show.
        ram (`Path`, *optional*): The tagger (`ram_swin_large_14m.pth`).
        ram_names (`dict`): Its names and thresholds, see `read_tag_files`.
    """

    checkpoint: Path
    text_model: Path
    qformer_tokenizer: Path
    vision: Path | None = None
    config: Path | None = None
    ram: Path | None = None
    ram_names: dict[str, Any] = field(default_factory=dict)

    def sources(self) -> list[Source]:
        """Weights of LION itself, opened."""
        if not self.text_model.is_dir():
            raise FileNotFoundError(f"there is no directory {self.text_model} with the T5")
        sources = [open_source(self.checkpoint.name, self.checkpoint)]
        if self.vision is not None:
            sources.append(open_source(self.vision.name, self.vision, VISION_PREFIX))
        if find_weights(self.text_model):
            sources.append(open_source(self.text_model.resolve().name, self.text_model, TEXT_PREFIX))
        return sources


def _load_tokenizer(directory: Path) -> Any:
    """A tokenizer of transformers' own, without the code that its files may name."""
    with named_tokenizer_errors(directory):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    # It would be written again, and name code of somebody else's repo, or none at all.
    tokenizer.init_kwargs.pop("auto_map", None)
    return tokenizer


class OfficialConversion:
    """
    A released LION, checked and ready to be written.

    Args:
        files ([`OfficialFiles`]): What there is.

    Raises:
        ConversionError: the files don't make up a model; nothing has been written.
        OSError, ValueError: a file is missing, damaged or not safe to load.
    """

    def __init__(self, files: OfficialFiles):
        self.files = files
        sources = files.sources()
        self.plan = plan_conversion(sources, self._config(sources))
        release(file for source in sources for file in source.files)
        self.processor = self._processor()
        self.tagger = None if files.ram is None else _TaggerConversion(files.ram, files.ram_names)

    @property
    def config(self) -> LionConfig:
        return self.plan.config

    @property
    def released_name(self) -> str | None:
        """`"flan-t5-xl"` or `"flan-t5-xxl"`, if the LLM is one of these."""
        return released_name(self.config)

    def _config(self, sources: list[Source]) -> LionConfig:
        if self.files.config is not None:
            fields = read_json(self.files.config)
            return LionConfig(**{name: value for name, value in fields.items() if name != "model_type"})
        text_file, bert_file = self.files.text_model / _CONFIG, self.files.qformer_tokenizer / _CONFIG
        if not text_file.is_file():
            raise FileNotFoundError(f"there is no {text_file}")
        bert_config = read_json(bert_file) if bert_file.is_file() else None
        try:
            return infer_lion_config(official_shapes(sources), read_json(text_file), bert_config)
        except ValueError as error:
            raise ConversionError([str(error)]) from error

    def _processor(self) -> LionProcessor:
        for directory in (self.files.text_model, self.files.qformer_tokenizer):
            if not directory.is_dir():
                raise FileNotFoundError(f"there is no directory {directory} with a tokenizer")
        tokenizer = _load_tokenizer(self.files.text_model)
        qformer_tokenizer = add_qformer_bos_token(_load_tokenizer(self.files.qformer_tokenizer))
        problems = []
        if len(tokenizer) > self.config.text_config.vocab_size:
            problems.append(
                f"tokenizer: that of {self.files.text_model.name} has {len(tokenizer)} tokens, and the T5 "
                f"{self.config.text_config.vocab_size} embeddings"
            )
        vocab_size = self.config.qformer_config.vocab_size
        if "qformer" in self.config.visual_branches and len(qformer_tokenizer) != vocab_size:
            problems.append(
                f"tokenizer: that of {self.files.qformer_tokenizer.name} has {len(qformer_tokenizer)} tokens with "
                f"[DEC], and the Q-Former {vocab_size} embeddings"
            )
        if problems:
            raise ConversionError(problems)
        image_processor = LionImageProcessor(size=self.config.vision_config.image_size)
        return LionProcessor(image_processor, tokenizer, qformer_tokenizer)

    def write(self, directory: str | os.PathLike, dtype: torch.dtype, max_shard_size: int) -> Path:
        """
        Write the checkpoint.

        Args:
            directory (`str` or `os.PathLike`): Where; it must not exist, or be empty.
            dtype (`torch.dtype`): Of LION's weights. The tagger keeps its own.
            max_shard_size (`int`): Bytes of tensors in one file.

        Returns:
            `Path`: the directory.

        Raises:
            FileExistsError: there is something in `directory`.
            OSError: no room on the disk, or it can't be written to.
        """
        tensors = self.plan.tensors(dtype)
        needed = sum(info.num_bytes for info in tensors.values())
        needed += 0 if self.tagger is None else self.tagger.num_bytes
        with new_directory(directory, needed) as partial:
            # transformers 5 loads weights that have no configuration, taking its defaults, which are a released LION's.
            # So they are out of its sight until everything else is there, and their index comes last.
            unfinished = partial / "unfinished"
            unfinished.mkdir()
            write_shards(unfinished, tensors, lambda name: self._read(name, tensors[name].dtype), max_shard_size)
            self.processor.save_pretrained(partial)
            write_code(partial, LION_CODE)
            if self.tagger is not None:
                self.tagger.write(partial / TAGGER_SUBFOLDER)
            (partial / CARD).write_text(render_card(self._card_facts(dtype)), encoding="utf-8")
            self._write_config(partial, dtype)
            reveal(unfinished)
        return Path(directory)

    def _read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        file = self.plan.chosen[name].file
        # Parameters come file by file: what the last one took is not needed any more.
        release(other for source in self.plan.sources for other in source.files if other is not file)
        return self.plan.read(name, dtype)

    def _write_config(self, directory: Path, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            model = LionForConditionalGeneration(self.config)
        model.generation_config.save_pretrained(directory)
        config = model.config
        config.architectures = [type(model).__name__]
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            part.dtype = str(dtype).removeprefix("torch.")
        config.auto_map = dict(LION_AUTO_MAP)
        config.custom_pipelines = LION_PIPELINES
        config.save_pretrained(directory)

    def _card_facts(self, dtype: torch.dtype) -> CardFacts:
        name = {"flan-t5-xl": "LION-4B (FlanT5-XL)", "flan-t5-xxl": "LION-12B (FlanT5-XXL)"}
        counts = self.plan.counts()
        sources = {source: f"{count['taken']:,} tensors" for source, count in counts.items() if count["taken"]}
        if self.tagger is not None:
            sources[self.tagger.file.path.name] = "the tagger"
        return CardFacts(
            title=name.get(self.released_name or "", "LION"),
            config=self.config,
            num_parameters=sum(count["elements"] for count in counts.values()),
            dtype=str(dtype).removeprefix("torch."),
            converted_from=sources,
            tagger_config=None if self.tagger is None else self.tagger.config,
            tagger_parameters=None if self.tagger is None else self.tagger.num_parameters,
        )

    def verify(self, directory: str | os.PathLike) -> list[str]:
        """
        Read a converted checkpoint back and compare every tensor's checksum with that of its sources.

        Returns:
            `list[str]`: what is wrong; empty if everything is as it should be.

        Raises:
            OSError, ValueError: the directory is no checkpoint.
        """
        directory = Path(directory)
        if not (directory / _CONFIG).is_file():
            raise FileNotFoundError(f"{directory} is no checkpoint: it has no {_CONFIG}")
        written, problems = stored_tensors(directory)
        expected = expected_shapes(LionConfig.from_pretrained(directory))
        problems += [f"missing: {name}" for name in expected.keys() - written.keys()]
        problems += [f"unexpected: {name}" for name in written.keys() - expected.keys()]
        for name, candidate in self.plan.chosen.items():
            if name in written:
                stored = written[name].read(name)
                if checksum(self._read(name, stored.dtype)) != checksum(stored):
                    problems.append(f"differs: {name}, from {candidate.official_name} of {candidate.source.name}")
        LionProcessor.from_pretrained(directory)
        if self.tagger is not None:
            problems += self.tagger.verify(directory / TAGGER_SUBFOLDER)
        return sorted(problems)


class _TaggerConversion:
    """
    The released tagger. It is small beside LION, so transformers writes it, under names that both its versions load.
    """

    def __init__(self, path: Path, names: Mapping[str, Any]):
        self.file = open_weights(path)
        shapes = {name: info.shape for name, info in self.file.tensors.items()}
        try:
            names = dict(names)
            if "class_threshold" in shapes and "thresholds" not in names:
                names["thresholds"] = self.file.read("class_threshold").tolist()
            self.config: RamConfig = infer_ram_config(shapes, **names)
            on_meta = {
                name: torch.empty(info.shape, dtype=info.dtype, device="meta")
                for name, info in self.file.tensors.items()
            }
            if "class_threshold" in on_meta:
                on_meta["class_threshold"] = self.file.read("class_threshold")
            convert_ram_checkpoint(on_meta, self.config)
        except ValueError as error:
            raise ConversionError([f"{path.name}: {error}"]) from error
        with torch.device("meta"):
            model = RamForImageTagging(self.config)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.num_bytes = 4 * self.num_parameters
        self.file.release()

    def model(self) -> RamForImageTagging:
        tensors = {name: self.file.read(name) for name in self.file.tensors}
        with torch.device("meta"):
            model = RamForImageTagging(self.config)
        converted = convert_ram_checkpoint(tensors, self.config)
        # Buffers that are in no checkpoint are recomputed by whoever loads it.
        model.load_state_dict({name: tensor.clone() for name, tensor in converted.items()}, assign=True)
        self.file.release()
        return model

    def write(self, directory: Path) -> None:
        model = self.model()
        model.save_pretrained(directory)
        image_size = self.config.vision_config.image_size
        LionImageProcessor.for_tagging(size=image_size).save_pretrained(directory)
        logger.info("Wrote the tagger.")

    def verify(self, directory: Path) -> list[str]:
        if not (directory / _CONFIG).is_file():
            return [f"missing: the tagger in {directory}"]
        loaded = RamForImageTagging.from_pretrained(directory, dtype="auto").state_dict()
        return [
            f"differs: tagger, {name}"
            for name, tensor in self.model().state_dict().items()
            if not tensor.is_meta and checksum(tensor.to(loaded[name].dtype)) != checksum(loaded[name])
        ]
