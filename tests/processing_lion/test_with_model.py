"""The processor's rows in the model, and its conversations in transformers' pipeline."""

import pytest
import torch
from PIL import Image
from torch.nn.functional import pad
from transformers import pipeline

from lion_multimodal import checkpoints
from modeling_lion import LionForConditionalGeneration
from processing_lion import LionProcessor


IMAGE = Image.new("RGB", (96, 96), "green")


@pytest.fixture(scope="module")
def model():
    return LionForConditionalGeneration.from_pretrained(checkpoints.path("nano")).eval()


@pytest.fixture(scope="module")
def shipped():
    return LionProcessor.from_pretrained(checkpoints.path("nano"))


@torch.inference_mode()
def test_padding_makes_no_difference(model, shipped):
    """However it is done, later and on either side; the soft prompt stays where it belongs."""
    asked = {"text": ["what is it?", "where is the red square in the image?"], "tags": ["square", None]}
    asked |= {"answers": ["a square", "there"], "images": [IMAGE] * 2}
    plain = shipped(**asked)
    expected = model(**plain).logits
    length = plain["input_ids"].shape[1]
    whole = {
        **plain,
        "soft_prompt_mask": pad(plain["soft_prompt_mask"], (0, length - plain["soft_prompt_mask"].shape[1])),
    }
    assert plain["soft_prompt_mask"].sum() == 1
    others = [
        whole,
        shipped(**asked, padding_side="left"),
        shipped(**asked, padding="max_length"),
        shipped.pad(shipped(**asked, padding=False, return_tensors=None), padding_side="left", return_tensors="pt"),
    ]
    for inputs in others:
        torch.testing.assert_close(model(**inputs).logits[:, : expected.shape[1]], expected, atol=2e-4, rtol=1e-4)
    unmarked = model(**{**plain, "soft_prompt_mask": torch.zeros_like(plain["soft_prompt_mask"])}).logits
    assert not torch.allclose(unmarked[0], expected[0], atol=1e-3)


def test_chats_in_the_pipeline_of_transformers(model, shipped):
    pipe = pipeline("image-text-to-text", model=model, processor=shipped)
    image = {"type": "image", "image": IMAGE}
    question = [{"role": "user", "content": [image, {"type": "text", "text": "what is it?"}]}]
    earlier = [
        {"role": "user", "content": [image, {"type": "text", "text": "where is the square?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "there"}]},
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}]},
    ]
    options = {"max_new_tokens": 6, "return_full_text": False}
    [alone], [last] = pipe(text=question, **options), pipe(text=earlier, **options)
    assert alone["generated_text"] == last["generated_text"]
    ids = model.generate(**shipped(IMAGE, "what is it?"), max_new_tokens=6)
    assert shipped.batch_decode(ids, skip_special_tokens=True)[0] == alone["generated_text"]
    with pytest.raises(ValueError, match="continue_final_message"):
        pipe(text=earlier[:2], **options)
