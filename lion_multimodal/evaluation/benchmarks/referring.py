"""Referring expression comprehension: RefCOCO, RefCOCO+, RefCOCOg."""

from __future__ import annotations

from collections.abc import Iterator

from lion_multimodal.evaluation.benchmark import Benchmark, Example, HubDataset, Metric
from lion_multimodal.evaluation.benchmarks.row import Row, cell_size
from lion_multimodal.evaluation.benchmarks.settings import BOX_DECODING, lmms_lab
from lion_multimodal.evaluation.published import published_figures
from processing_lion.prompts_lion import format_prompt
from trainers.record import corners, fraction_box


def _example(identifier: str, image: object, image_id: str, expression: str, box: list[float]) -> Example:
    return Example(
        id=identifier,
        image=image,
        image_id=image_id,
        instruction=format_prompt("rec", expression=expression),
        metric_inputs={"references": box},
        level="region_level",
    )


def _benchmark_row(row: Row) -> Iterator[Example]:
    """jxu124/refcoco-benchmark: an image with its objects, each with COCO's box and several sentences."""
    info = row.value("image_info")
    image, image_id = row.image("image"), str(info["id"])
    for reference in row.value("ref_list"):
        annotation = Row(reference["ann_info"], row.number)
        box = fraction_box(corners(annotation.numbers("bbox", 4)), info["width"], info["height"])
        named = reference["ref_info"]
        for sentence in named["sentences"]:
            expression = Row(sentence, row.number).text("sent")
            example = _example(f"{named['ref_id']}/{sentence['sent_id']}", image, image_id, expression, box)
            example.coco_id = int(info["id"])
            yield example


def _lmms_row(row: Row) -> Iterator[Example]:
    """lmms-lab: an object with COCO's box; its sentences are in `answer`, while `question` asks for a caption."""
    image = row.image("image")
    box = fraction_box(corners(row.numbers("bbox", 4)), *cell_size(image))
    name = row.optional_text("file_name")
    # Files are named after image and object: COCO_train2014_000000581857_16.jpg.
    image_id = name.rsplit("_", 1)[0] if name.count("_") > 2 else name or row.text("question_id")
    for number, expression in enumerate(row.texts("answer")):
        yield _example(f"{row.text('question_id')}/{number}", image, image_id, expression, box)


def _shikra_row(row: Row) -> Iterator[Example]:
    """Shikra's files: a sentence with a box of left, top, right and bottom, in pixels."""
    box = fraction_box(row.numbers("bbox", 4), row.integer("width"), row.integer("height"))
    name = row.text("img_path")
    yield _example(str(row.number), row.local_image(name), name, row.text("expression"), box)


def _referring(name: str, title: str, split: str, counts: str, lmms_name: str, lmms_note: str = "") -> Benchmark:
    part = name.rsplit("_", 1)[1]
    return Benchmark(
        name=name,
        title=title,
        task="referring expression comprehension",
        prompts=("rec",),
        sources=(
            HubDataset(
                "jxu124/refcoco-benchmark",
                split,
                ("ref_list", "image_info", "image"),
                _benchmark_row,
                note=f"{counts}; boxes are left, top, width and height in pixels",
            ),
            *lmms_lab(
                lmms_name,
                part,
                ("question_id", "image", "answer", "bbox"),
                _lmms_row,
                local_only=bool(lmms_note),
                note=lmms_note or "boxes are left, top, width and height in pixels, sentences the list `answer`",
            ),
            HubDataset(
                "Shikra's annotations (shikras/shikra)",
                part,
                ("img_path", "expression", "bbox", "height", "width"),
                _shikra_row,
                local_only=True,
                note="REC_*.jsonl, with train2014's images in images/; boxes are left, top, right and bottom",
            ),
        ),
        metrics={"": Metric("rec_accuracy", "accuracy")},
        decoding=BOX_DECODING,
        level="region_level",
        published=published_figures(name),
        why="Each sentence of each object is one sample, as in Shikra's files. Splits: UNC's for RefCOCO and RefCOCO+, "
        "UMD's for RefCOCOg. Prompt: the one in LION's playground.ipynb, which is one of Shikra's; routed as "
        "region-level. Decoding: the defaults of LION's `generate`, which the notebook uses.",
    )


_MIXED = (
    "its split `val` holds {} rows, by their number the {} of {}'s split and 5,000 of Google's; files in its schema "
    "are read from local folders"
)

REFERRING = (
    _referring(
        "refcoco_val",
        "RefCOCO val",
        "refcoco_unc_val",
        "1,500 images, 3,811 objects, 10,834 sentences",
        "RefCOCO",
        _MIXED.format("8,811", "3,811", "UNC"),
    ),
    _referring(
        "refcoco_testA", "RefCOCO testA", "refcoco_unc_testA", "750 images, 1,975 objects, 5,657 sentences", "RefCOCO"
    ),
    _referring(
        "refcoco_testB", "RefCOCO testB", "refcoco_unc_testB", "750 images, 1,810 objects, 5,095 sentences", "RefCOCO"
    ),
    _referring(
        "refcoco_plus_val",
        "RefCOCO+ val",
        "refcoco_plus_unc_val",
        "1,500 images, 3,805 objects, 10,758 sentences",
        "RefCOCOplus",
    ),
    _referring(
        "refcoco_plus_testA",
        "RefCOCO+ testA",
        "refcoco_plus_unc_testA",
        "750 images, 1,975 objects, 5,726 sentences",
        "RefCOCOplus",
    ),
    _referring(
        "refcoco_plus_testB",
        "RefCOCO+ testB",
        "refcoco_plus_unc_testB",
        "750 images, 1,798 objects, 4,889 sentences",
        "RefCOCOplus",
    ),
    _referring(
        "refcocog_val",
        "RefCOCOg val",
        "refcocog_umd_val",
        "1,300 images, 2,573 objects, 4,896 sentences",
        "RefCOCOg",
        _MIXED.format("7,573", "2,573", "UMD"),
    ),
    _referring(
        "refcocog_test",
        "RefCOCOg test",
        "refcocog_umd_test",
        "2,600 images, 5,023 objects, 9,602 sentences",
        "RefCOCOg",
    ),
)
