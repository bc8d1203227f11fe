"""Regions: RefCOCO, RefCOCO+ and RefCOCOg, both ways, and the regions of Visual Genome."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from processing_lion import format_box
from trainers.record import Record, corners, fraction_box
from trainers.sources import wordings
from trainers.sources.captioning import COCO_IMAGES, COCO_LICENCE
from trainers.sources.inputs import Inputs, numbered
from trainers.sources.source import LeftOut, RowKind, Sample, SourceForm, TrainingSource


_NO_LICENCE = "no licence is stated for the annotations (REFER's code is Apache 2.0); images as COCO's"
_SPLITS = {"train": ("train",), "validation": ("val", "validation")}


def box_text(box: list[float], width: float, height: float) -> str:
    """
    COCO's box of an image as LION writes it.

    Raises:
        ValueError: it has no area within the image, or none with three decimals.
    """
    text = format_box(fraction_box(corners(box), width, height))
    left, top, right, bottom = json.loads(text)
    if left >= right or top >= bottom:
        raise ValueError(f"the box {box} is too thin for three decimals")
    return text


def _refer(inputs: Inputs, split: str) -> Iterator[Record]:
    """REFER's objects, each with the box and the image of COCO's annotation."""
    objects = [Record(item, number) for number, item in enumerate(inputs.pickled("refs")) if isinstance(item, Mapping)]
    objects = [record for record in objects if record.get("split") in _SPLITS[split]]
    wanted = {record.get("ann_id") for record in objects}
    boxes = {
        annotation.get("id"): annotation.get("bbox")
        for annotation in numbered(inputs.json_items("instances", "annotations.item"))
        if annotation.get("id") in wanted
    }
    sizes = {
        image.get("id"): (image.get("width"), image.get("height"))
        for image in numbered(inputs.json_items("instances", "images.item"))
    }
    for record in objects:
        width, height = sizes.get(record.get("image_id"), (None, None))
        record.update(bbox=boxes.get(record.get("ann_id")), width=width, height=height)
        yield record


def _refer_held_out(inputs: Inputs, name: str) -> Iterator[tuple[str, int]]:
    for record in numbered(iter(inputs.pickled("refs"))):
        if record.get("split") != "train":
            yield f"{name}_{record.text('split')}", record.integer("image_id")


def _parquet(inputs: Inputs, split: str) -> Iterator[Record]:
    columns = ("ref_id", "image_id", "split", "sentences", "raw_anns", "raw_image_info")
    for record in numbered(inputs.parquet_rows("rows", columns)):
        # Its own `bbox` holds corners; these are COCO's fields as they were.
        record["bbox"] = json.loads(record.text("raw_anns")).get("bbox")
        size = json.loads(record.text("raw_image_info"))
        record.update(width=size.get("width"), height=size.get("height"))
        yield record


def _parquet_held_out(inputs: Inputs, name: str) -> Iterator[tuple[str, int]]:
    for role in inputs.files:
        for record in numbered(inputs.parquet_rows(role, ("split", "image_id"))):
            yield f"{name}_{record.text('split')}", record.integer("image_id")


def _reference_samples(record: Record) -> Iterator[Sample]:
    """An object: a row of REC for each of its sentences, and one of REG that allows all of them."""
    identifier, coco_id = record.text("ref_id"), record.integer("image_id")
    box = box_text(record.numbers("bbox", 4), record.integer("width"), record.integer("height"))
    sentences = [(sentence.text("sent_id"), sentence.text("sent")) for sentence in record.records("sentences")]
    for sentence_id, expression in sentences:
        yield Sample(
            id=f"{identifier}/{sentence_id}",
            fields={"expression": expression},
            completion=[box],
            coco_id=coco_id,
            kind="rec",
        )
    expressions = list(dict.fromkeys(expression for _, expression in sentences))
    yield Sample(id=identifier, fields={"box": box}, completion=expressions, coco_id=coco_id, kind="reg")


def _referring(
    name: str,
    title: str,
    split_by: str,
    objects: int,
    sentences: int,
    validation: int,
    hub: str,
    folders: tuple[str, ...],
    licence: str,
    cross: str,
) -> TrainingSource:
    tests = ("test",) if split_by == "umd" else ("testA", "testB")
    hub_files = {"validation": "validation-*.parquet", "test": "test-*.parquet"}
    if split_by == "unc":
        hub_files["testB"] = "testB-*.parquet"
    return TrainingSource(
        name=name,
        title=title,
        stage="stage2",
        kinds=(
            RowKind(
                name="rec",
                prompts=wordings.REC,
                prompt_source=wordings.REC_SOURCE,
                level="region_level",
                expected={"train": sentences, "validation": validation},
                splits=("train", "validation"),
            ),
            RowKind(
                name="reg",
                prompts=wordings.REG,
                prompt_source=wordings.SHIKRA,
                level="region_level",
                expected={"train": objects},
            ),
        ),
        forms=(
            SourceForm(
                name=f"REFER's refs({split_by}).p and instances.json",
                files={
                    split: {"refs": f"refs({split_by}).p|refs({split_by}).json", "instances": "instances.json"}
                    for split in ("train", "validation")
                },
                records=_refer,
                samples=_reference_samples,
                schema="https://github.com/lichengunc/refer (refer.py)",
                held_out_files={"refs": f"refs({split_by}).p|refs({split_by}).json"},
                held_out=partial(_refer_held_out, name=name),
                note="refs(...).p is a pickle. It is read by an unpickler that builds containers, numbers and texts "
                "and refuses whatever names a class or a function, so that nothing in it is executed. Boxes are left, "
                "top, width and height in pixels",
            ),
            SourceForm(
                name=hub,
                hub=hub,
                files={
                    "train": {"rows": "train-*.parquet"},
                    "validation": {"rows": "validation-*.parquet"},
                },
                records=_parquet,
                samples=_reference_samples,
                schema=f"https://huggingface.co/datasets/{hub}",
                held_out_files=hub_files,
                held_out=partial(_parquet_held_out, name=name),
                note="REFER's objects as Parquet, without images. The box is COCO's in `raw_anns`: the column `bbox` "
                "holds corners",
            ),
        ),
        folders=folders,
        image_folders=COCO_IMAGES,
        homepage="https://github.com/lichengunc/refer",
        licence=licence,
        left_out=f"{', '.join(tests)} of {split_by.upper()}'s split. {cross}",
    )


REFCOCO = _referring(
    "refcoco",
    "RefCOCO",
    "unc",
    42_404,
    120_624,
    10_834,
    "jxu124/refcoco",
    ("refcoco",),
    _NO_LICENCE,
    "RefCOCOg was split apart from RefCOCO: training images of one are tested on by another, and are left out",
)
REFCOCO_PLUS = _referring(
    "refcoco_plus",
    "RefCOCO+",
    "unc",
    42_278,
    120_191,
    10_758,
    "jxu124/refcocoplus",
    ("refcoco_plus", "refcoco+"),
    _NO_LICENCE,
    "As RefCOCO",
)
REFCOCOG = _referring(
    "refcocog",
    "RefCOCOg",
    "umd",
    42_226,
    80_512,
    4_896,
    "jxu124/refcocog",
    ("refcocog",),
    COCO_LICENCE,
    "As RefCOCO. Google's split, whose parts share images, is not read",
)


def _visual_genome(inputs: Inputs, split: str) -> Iterator[Record]:
    """Visual Genome's images with their regions; what COCO calls an image stands in a file of its own."""
    images = {
        image.get("image_id"): (image.get("width"), image.get("height"), image.get("coco_id"))
        for image in numbered(inputs.json_items("images", "item"))
    }
    for record in numbered(inputs.json_items("annotations", "item")):
        image_id = record.get("id", record.get("image_id"))
        if image_id in images:
            width, height, coco_id = images[image_id]
            record.update(image_id=image_id, width=width, height=height, coco_id=coco_id)
        yield record


def _region_samples(record: Record) -> Iterator[Sample | LeftOut]:
    """An image: a row for each region whose phrase tells it apart. A bad region leaves the others alone."""
    image_id = record.text("image_id")
    width, height = record.integer("width"), record.integer("height")
    coco_id = None if record.get("coco_id") is None else record.integer("coco_id")
    regions = record.records("regions")
    phrases = Counter(_plain(region.get("phrase")) for region in regions)
    for region in regions:
        try:
            phrase = region.text("phrase")
            sides = [float(region.integer(side)) for side in ("x", "y", "width", "height")]
            box = box_text(sides, width, height)
        except ValueError as error:
            yield LeftOut(f"region {region.get('region_id')}: {error}")
            continue
        if phrases[_plain(phrase)] > 1:
            yield LeftOut("regions whose phrase describes several of their image", rule=True)
            continue
        yield Sample(
            id=region.text("region_id"),
            fields={"box": box},
            completion=[phrase],
            image=f"{image_id}.jpg",
            coco_id=coco_id,
        )


def _plain(phrase: Any) -> str:
    return " ".join(str(phrase).lower().split()).rstrip(".")


VISUAL_GENOME = TrainingSource(
    name="visual_genome",
    title="Visual Genome regions",
    stage="stage2",
    kinds=(
        RowKind(
            name="",
            prompts=wordings.REG,
            prompt_source=wordings.SHIKRA,
            level="region_level",
            expected={"train": 5_408_689},
            exact=False,
        ),
    ),
    forms=(
        SourceForm(
            name="region_descriptions.json and image_data.json",
            files={"train": {"annotations": "region_descriptions.json", "images": "image_data.json"}},
            records=_visual_genome,
            samples=_region_samples,
            schema="https://homes.cs.washington.edu/~ranjay/visualgenome/api.html",
            note="one record an image. image_data.json gives sizes and `coco_id`, for half of the images are COCO's. "
            "The copy on the Hub (ranjaykrishna/visual_genome) is a script that downloads these files",
        ),
    ),
    folders=("visual_genome", "vg"),
    image_folders=("visual_genome", "vg"),
    homepage="https://homes.cs.washington.edu/~ranjay/visualgenome",
    licence="CC BY 4.0",
    left_out="regions whose phrase describes several regions of the image, which no phrase could tell apart; regions "
    "without area",
)
