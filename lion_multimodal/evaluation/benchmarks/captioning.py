"""Captioning: Flickr30K, COCO Caption, TextCaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lion_multimodal.evaluation.benchmark import Benchmark, Example, HubDataset, Metric
from lion_multimodal.evaluation.benchmarks.row import Row
from lion_multimodal.evaluation.benchmarks.settings import CAPTION_DECODING, lmms_lab
from lion_multimodal.evaluation.published import published_figures
from processing_lion.prompts_lion import format_prompt


CAPTION_METRICS = {"": Metric("cider", "CIDEr")}
FURTHER_METRICS = (
    Metric("bleu", "BLEU-4"),
    Metric("meteor", "METEOR"),
    Metric("rouge_l", "ROUGE-L"),
    Metric("spice", "SPICE"),
)
_WHY = (
    "Prompt: the one of captioning in LION's playground.ipynb (InstructBLIP's is \"A short image description: \"). "
    "Decoding: beam search of 5, 8 to 30 tokens, as BLIP-2 captions COCO in LAVIS."
)


def _example(row: Row, identifier: str, image: Any, captions: list[str]) -> Example:
    return Example(
        id=identifier,
        image=image,
        image_id=identifier,
        instruction=format_prompt("caption_short"),
        metric_inputs={"references": captions},
    )


def _flickr30k(row: Row) -> Iterator[Example]:
    # nlphuji/flickr30k keeps Karpathy's split in a column: on the Hub, all of its rows are in the split "test".
    if row.optional_text("split") in ("", "test"):
        yield _example(row, row.text("img_id"), row.image("image"), row.texts("caption"))


def _text_column(row: Row) -> Iterator[Example]:
    yield _example(row, str(row.number), row.image("image"), row.texts("text"))


def _karpathy(row: Row) -> Iterator[Example]:
    if row.optional_text("split") not in ("", "test"):
        return
    sentences = row.value("sentences")
    if isinstance(sentences, list) and sentences and isinstance(sentences[0], Mapping):
        row["sentences"] = [item.get("raw") for item in sentences]
    identifier = row.text("cocoid" if "cocoid" in row else "imgid")
    image = row.image("filename", url=row.optional_text("url") or None)
    example = _example(row, identifier, image, row.texts("sentences"))
    example.coco_id = row.integer("cocoid") if "cocoid" in row else None
    yield example


def _karpathy_rows(files: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of Karpathy's `dataset_coco.json` or `dataset_flickr30k.json`."""
    for content in files.values():
        images = content.get("images") if isinstance(content, Mapping) else None
        if isinstance(images, list) and images and "sentences" in images[0]:
            return images
    return None


def _textcaps(row: Row) -> Iterator[Example]:
    yield _example(row, row.text("image_id"), row.image("image"), row.texts("caption_str"))


FLICKR30K = Benchmark(
    name="flickr30k",
    title="Flickr30K",
    task="captioning",
    prompts=("caption_short",),
    sources=(
        HubDataset(
            "nlphuji/flickr30k",
            "test",
            ("image", "caption", "img_id", "split"),
            _flickr30k,
            revision="refs/convert/parquet",
            folder="TEST",
            note="31,014 rows; those whose column `split` is `test`, 1,000, are used. The repo is a loading script, "
            "which `datasets` no longer runs: its conversion to parquet is read",
        ),
        HubDataset(
            "royokong/flickr30k_test",
            "test",
            ("image", "text"),
            _text_column,
            note="the 1,000 rows of Karpathy's test split",
        ),
        HubDataset(
            "lmms-lab/flickr30k",
            "test",
            ("image", "caption", "img_id"),
            _flickr30k,
            local_only=True,
            note="its split `test` is all of Flickr30K, 31,783 rows, not the 1,000 that figures are published on; "
            "files in its schema are read from local folders",
        ),
        HubDataset(
            "dataset_flickr30k.json (Karpathy)",
            "test",
            ("sentences", "filename", "imgid"),
            _karpathy,
            unpack=_karpathy_rows,
            local_only=True,
            note="the original annotations, with Flickr30K's images in images/",
        ),
    ),
    metrics=CAPTION_METRICS,
    further_metrics=FURTHER_METRICS,
    decoding=CAPTION_DECODING,
    published=published_figures("flickr30k"),
    why="Karpathy's 1,000 test images with five captions each, as in InstructBLIP. lmms-lab/flickr30k is not loaded "
    f"because its `test` is the whole dataset. {_WHY}",
)

COCO_CAPTION = Benchmark(
    name="coco_caption",
    title="COCO Caption",
    task="captioning",
    prompts=("caption_short",),
    sources=(
        HubDataset(
            "yerevann/coco-karpathy",
            "test",
            ("sentences", "filename", "cocoid", "url"),
            _karpathy,
            unpack=_karpathy_rows,
            note="Karpathy's 5,000 test rows. Images are addresses at images.cocodataset.org, fetched once and "
            "cached. Locally also Karpathy's `dataset_coco.json`, with val2014's images in images/",
        ),
        HubDataset(
            "royokong/coco_test",
            "test",
            ("image", "text"),
            _text_column,
            note="the 5,000 rows of Karpathy's test split, images embedded",
        ),
        HubDataset(
            "lmms-lab/COCO-Caption",
            "val",
            ("image", "answer", "question_id"),
            lambda row: iter([_example(row, row.text("question_id"), row.image("image"), row.texts("answer"))]),
            local_only=True,
            note="its split `val` is all of val2014, 40,504 rows, not Karpathy's 5,000; files in its schema are read "
            "from local folders",
        ),
    ),
    metrics=CAPTION_METRICS,
    further_metrics=FURTHER_METRICS,
    decoding=CAPTION_DECODING,
    published=published_figures("coco_caption"),
    why="Karpathy's test split, on which captioning is published. The lmms-lab datasets hold all of val2014 or "
    f"val2017 instead. {_WHY}",
)

TEXTCAPS = Benchmark(
    name="textcaps",
    title="TextCaps",
    task="captioning",
    prompts=("caption_short",),
    sources=lmms_lab(
        "TextCaps",
        "val",
        ("image", "image_id", "caption_str"),
        _textcaps,
        note="3,166 rows of validation; the captions of `test` are kept on a server",
    ),
    metrics=CAPTION_METRICS,
    further_metrics=FURTHER_METRICS,
    decoding=CAPTION_DECODING,
    published=published_figures("textcaps"),
    why="Validation, since the test captions are not public. No OCR words go into the prompt: LION's paper mentions "
    f"none. {_WHY}",
)
