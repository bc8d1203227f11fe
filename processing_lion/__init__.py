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
from processing_lion.processing_lion import LionProcessor, add_qformer_bos_token
from processing_lion.prompts_lion import (
    PROMPT_TEMPLATES,
    SOFT_PROMPT_TOKEN,
    PromptTemplate,
    format_prompt,
    format_tags,
)
from processing_lion.tasks_lion import TASKS, infer_task


__all__ = [
    "PROMPT_TEMPLATES",
    "SOFT_PROMPT_TOKEN",
    "TASKS",
    "LionImageProcessor",
    "LionProcessor",
    "PromptTemplate",
    "add_qformer_bos_token",
    "box_iou",
    "draw_boxes",
    "format_box",
    "format_prompt",
    "format_tags",
    "image_size",
    "infer_task",
    "intersection_over_union",
    "label_boxes",
    "load_image",
    "load_images",
    "parse_boxes",
    "to_pixels",
]
