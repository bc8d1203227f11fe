"""Pixels and words in, words and boxes out: image processor, processor, prompts, grounding."""

from processing_lion.drawing_lion import draw_boxes
from processing_lion.grounding_lion import (
    box_iou,
    format_box,
    intersection_over_union,
    label_boxes,
    parse_boxes,
    to_pixels,
)
from processing_lion.image_loading_lion import image_size, load_image, load_images
from processing_lion.image_processing_lion import LionImageProcessor
from processing_lion.levels_lion import LEVELS, TASKS, infer_level, infer_task
from processing_lion.processing_lion import LionProcessor, add_qformer_bos_token, check_processor_files
from processing_lion.prompts_lion import (
    PROMPT_TEMPLATES,
    SOFT_PROMPT_TOKEN,
    PromptTemplate,
    format_prompt,
    format_tags,
)


__all__ = [
    "LEVELS",
    "PROMPT_TEMPLATES",
    "SOFT_PROMPT_TOKEN",
    "TASKS",
    "LionImageProcessor",
    "LionProcessor",
    "PromptTemplate",
    "add_qformer_bos_token",
    "box_iou",
    "check_processor_files",
    "draw_boxes",
    "format_box",
    "format_prompt",
    "format_tags",
    "image_size",
    "infer_level",
    "infer_task",
    "intersection_over_union",
    "label_boxes",
    "load_image",
    "load_images",
    "parse_boxes",
    "to_pixels",
]
