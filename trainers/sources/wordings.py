"""The wordings of training rows: those that the sources of LION's prompts were trained with."""

from __future__ import annotations

from processing_lion import PROMPT_TEMPLATES


INSTRUCTBLIP = "InstructBLIP (arXiv 2305.06500), table of instruction templates"
SHIKRA = "Shikra (arXiv 2306.15195), table of task templates"

CAPTION = (
    PROMPT_TEMPLATES["caption_short"].text,
    "A short image caption:",
    "A short image description:",
    "A photo of",
    "An image that shows",
    "Write a short description for the image.",
    "Write a description for the photo.",
    "Provide a description of what is presented in the photo.",
    "Briefly describe the content of the image.",
    "Can you briefly explain what you see in the image?",
    "Could you use a few words to describe what you perceive in the photo?",
    "Please provide a short depiction of the picture.",
    "Using language, provide a short account of the image.",
    "Use a few words to illustrate what is happening in the picture.",
)
CAPTION_SOURCE = f"LION's playground.ipynb; {INSTRUCTBLIP}"

# InstructBLIP's, without the full stop that one of them puts behind the question mark.
VQA_ANY_LENGTH = (
    PROMPT_TEMPLATES["vqa"].text,
    "{question}",
    "Question: {question}",
    "{question} A short answer to the question is",
    "Q: {question} A:",
    "Based on the image, respond to this question with a short answer: {question} Answer:",
    "Use the provided image to answer the question: {question} Provide your answer as short as possible:",
    'What is the answer to the following question? "{question}"',
    'The question "{question}" can be answered using the image. A short answer is',
)
# Not for titles of books.
VQA = (
    *VQA_ANY_LENGTH,
    "Given the image, answer the following question with no more than three words. {question}",
)
VQA_CHOICES = (PROMPT_TEMPLATES["vqa_choices"].text,)
VQA_CHOICES_SOURCE = PROMPT_TEMPLATES["vqa_choices"].source

QUESTION = ("{question}",)

REC = (
    PROMPT_TEMPLATES["rec"].text,
    "In the given <image>, could you find and tell me the coordinates of {expression}?",
    "I need the coordinates of {expression} in <image>, can you please assist me with that?",
    "Locate {expression} in <image> and provide its coordinates, please.",
)
REC_SOURCE = f"LION's playground.ipynb; {SHIKRA}"

REG = (
    PROMPT_TEMPLATES["reg"].text,
    "In the photo <image>, how would you describe the selected area {box} uniquely?",
    "Can you provide a description for the region {box} in the image <image> such that it sets it apart from others?",
)
