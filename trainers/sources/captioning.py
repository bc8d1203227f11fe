"""Captions: COCO, TextCaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainers.record import Record
from trainers.sources import wordings
from trainers.sources.images import read_coco_id
from trainers.sources.inputs import Inputs, numbered
from trainers.sources.source import RowKind, Sample, SourceForm, TrainingSource


COCO_LICENCE = "annotations CC BY 4.0; images under the Flickr terms of their owners"
COCO_IMAGES = ("coco", "mscoco", "coco2014", "coco2017")

# Karpathy trains on the rest of val2014 as well.
_KARPATHY_SPLITS = {"train": ("train", "restval"), "validation": ("val", "validation")}


def _karpathy_samples(record: Record) -> Iterator[Sample]:
    """An image with its sentences; of those, the Hub's copy has the texts alone."""
    coco_id = record.integer("cocoid")
    sentences = record.value("sentences")
    if sentences and isinstance(sentences[0], Mapping):
        record["sentences"] = [sentence.get("raw") for sentence in sentences]
    for number, caption in enumerate(record.texts("sentences")):
        yield Sample(id=f"{coco_id}/{number}", fields={}, completion=[caption], coco_id=coco_id)


def _karpathy_json(inputs: Inputs, split: str) -> Iterator[Record]:
    for record in numbered(inputs.json_items("annotations", "images.item")):
        if record.get("split") in _KARPATHY_SPLITS[split]:
            yield record


def _karpathy_json_held_out(inputs: Inputs) -> Iterator[tuple[str, int]]:
    for record in numbered(inputs.json_items("annotations", "images.item")):
        if record.get("split") in ("val", "test"):
            yield f"karpathy_{record['split']}", record.integer("cocoid")


def _karpathy_parquet(inputs: Inputs, split: str) -> Iterator[Record]:
    columns = ("cocoid", "split", "sentences")
    for role in _KARPATHY_SPLITS[split]:
        if role in inputs.files:
            yield from numbered(inputs.parquet_rows(role, columns))


def _karpathy_parquet_held_out(inputs: Inputs) -> Iterator[tuple[str, int]]:
    for role, name in (("validation", "karpathy_val"), ("test", "karpathy_test")):
        for record in numbered(inputs.parquet_rows(role, ("cocoid",))):
            yield name, record.integer("cocoid")


def _lavis(inputs: Inputs, split: str) -> Iterator[Record]:
    yield from numbered(inputs.json_items("annotations", "item"))


def _lavis_coco_id(record: Record) -> int:
    name = record.text("image")
    coco_id = read_coco_id(name)
    if coco_id is None:
        raise ValueError(f"'image' {name!r} is not named as COCO's images are")
    return coco_id


def _lavis_samples(record: Record) -> Iterator[Sample]:
    """LAVIS: an image and one of its captions; in the files of validation and test all of them."""
    if isinstance(record.get("caption"), str):
        record["caption"] = [record["caption"]]
    coco_id = _lavis_coco_id(record)
    for caption in record.texts("caption"):
        yield Sample(id=f"{record.number}/{coco_id}", fields={}, completion=[caption], coco_id=coco_id)


def _lavis_held_out(inputs: Inputs) -> Iterator[tuple[str, int]]:
    for role in ("val", "test"):
        for record in numbered(inputs.json_items(role, "item")):
            yield f"karpathy_{role}", _lavis_coco_id(record)


def _coco_captions(inputs: Inputs, split: str) -> Iterator[Record]:
    held_out = inputs.context["held_out"].get("karpathy_val", frozenset())
    for record in numbered(inputs.json_items("annotations", "annotations.item")):
        if split == "train" or record.get("image_id") in held_out:
            yield record


def _coco_samples(record: Record) -> Iterator[Sample]:
    """COCO: a caption with the number of its image."""
    yield Sample(
        id=record.text("id"), fields={}, completion=[record.text("caption")], coco_id=record.integer("image_id")
    )


COCO_CAPTIONS = TrainingSource(
    name="coco_captions",
    title="COCO Captions",
    stage="stage1",
    kinds=(
        RowKind(
            name="",
            prompts=wordings.CAPTION,
            prompt_source=wordings.CAPTION_SOURCE,
            level="image_level",
            expected={"train": 566_747, "validation": 25_010},
            splits=("train", "validation"),
        ),
    ),
    forms=(
        SourceForm(
            name="Karpathy's dataset_coco.json",
            files={
                "train": {"annotations": "dataset_coco.json"},
                "validation": {"annotations": "dataset_coco.json"},
            },
            records=_karpathy_json,
            samples=_karpathy_samples,
            schema="https://github.com/karpathy/neuraltalk2 (caption_datasets.zip)",
            held_out_files={"annotations": "dataset_coco.json"},
            held_out=_karpathy_json_held_out,
            note="one record an image, its split in `split`, its captions in `sentences`",
        ),
        SourceForm(
            name="yerevann/coco-karpathy",
            hub="yerevann/coco-karpathy",
            files={
                "train": {"train": "train*.parquet", "restval": "restval*.parquet"},
                "validation": {"validation": "validation*.parquet"},
            },
            records=_karpathy_parquet,
            samples=_karpathy_samples,
            schema="https://huggingface.co/datasets/yerevann/coco-karpathy",
            held_out_files={"validation": "validation*.parquet", "test": "test*.parquet"},
            held_out=_karpathy_parquet_held_out,
            note="the same with a file for each split, without images",
        ),
        SourceForm(
            name="LAVIS's coco_karpathy_*.json",
            files={
                "train": {"annotations": "coco_karpathy_train.json"},
                "validation": {"annotations": "coco_karpathy_val.json"},
            },
            records=_lavis,
            samples=_lavis_samples,
            schema="https://github.com/salesforce/LAVIS (lavis/configs/datasets/coco/defaults_cap.yaml)",
            held_out_files={"val": "coco_karpathy_val.json", "test": "coco_karpathy_test.json"},
            held_out=_lavis_held_out,
            note="one record a caption",
        ),
        SourceForm(
            name="COCO's captions_*2017.json",
            files={
                "train": {"annotations": "captions_*2017.json"},
                "validation": {"annotations": "captions_*2017.json"},
            },
            records=_coco_captions,
            samples=_coco_samples,
            schema="https://cocodataset.org/#format-data",
            note="train2017 and val2017 hold the images of 2014 in other parts, so that most of Karpathy's validation "
            "and test images are in train2017; who they are has to be known from one of the forms above",
        ),
        SourceForm(
            name="COCO's captions_*2014.json",
            files={
                "train": {"annotations": "captions_*2014.json"},
                "validation": {"annotations": "captions_*2014.json"},
            },
            records=_coco_captions,
            samples=_coco_samples,
            schema="https://cocodataset.org/#format-data",
            note="as 2017",
        ),
    ),
    folders=("coco_captions", *COCO_IMAGES),
    image_folders=COCO_IMAGES,
    homepage="https://cocodataset.org, https://cs.stanford.edu/people/karpathy/deepimagesent",
    licence=COCO_LICENCE,
    left_out="Karpathy's validation and test images; his `restval` (the rest of val2014) is trained on, as in "
    "InstructBLIP. A row is an image with one of its captions",
)


def _textcaps_json(inputs: Inputs, split: str) -> Iterator[Record]:
    yield from numbered(inputs.json_items("annotations", "data.item"))


def _textcaps_json_samples(record: Record) -> Iterator[Sample]:
    """TextCaps: a caption; images are named after their numbers in Open Images."""
    yield Sample(
        id=record.text("caption_id"),
        fields={},
        completion=[record.text("caption_str")],
        image=f"{record.text('image_id')}.jpg",
    )


def _textcaps_parquet(inputs: Inputs, split: str) -> Iterator[Record]:
    yield from numbered(inputs.parquet_rows("rows", ("image", "image_id", "caption_str")))


def _textcaps_parquet_samples(record: Record) -> Iterator[Sample]:
    """lmms-lab: an image with all of its captions."""
    image_id = record.text("image_id")
    for number, caption in enumerate(record.texts("caption_str")):
        image = {"path": f"{image_id}.jpg", "bytes": record.value("image")["bytes"]}
        yield Sample(id=f"{image_id}/{number}", fields={}, completion=[caption], image=image)


TEXTCAPS = TrainingSource(
    name="textcaps",
    title="TextCaps",
    stage="stage1",
    kinds=(
        RowKind(
            name="",
            prompts=wordings.CAPTION,
            prompt_source=wordings.CAPTION_SOURCE,
            level="image_level",
            expected={"train": 109_765},
        ),
    ),
    forms=(
        SourceForm(
            name="TextCaps_0.1_train.json",
            files={"train": {"annotations": "TextCaps_*_train.json"}},
            records=_textcaps_json,
            samples=_textcaps_json_samples,
            schema="https://textvqa.org/textcaps/dataset",
            note="one record a caption",
        ),
        SourceForm(
            name="lmms-lab/TextCaps",
            hub="lmms-lab/TextCaps",
            files={"train": {"rows": "train-*.parquet"}},
            records=_textcaps_parquet,
            samples=_textcaps_parquet_samples,
            schema="https://huggingface.co/datasets/lmms-lab/TextCaps",
            note="21,953 records, an image with five captions each; the images, 6 GB, are copied into the output",
        ),
    ),
    folders=("textcaps", "textvqa"),
    image_folders=("textvqa", "textcaps"),
    homepage="https://textvqa.org/textcaps",
    licence="annotations CC BY 4.0; images of Open Images, CC BY 2.0",
    left_out="nothing. Never cropped or flipped, since the captions read what is written in the image",
    augment=False,
)
