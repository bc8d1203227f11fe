"""
What a stranger does with a repo, in a process without LION: loads it by every route and says what came out.

Run as `python -I load_repo.py JOB.json`, where the job names a repo, a picture, a folder to save to, and a file for the
findings. `observe` serves the installed package as well, for comparison. Needs nothing but torch, transformers, Pillow.
"""

import importlib.util
import json
import sys


OUR_PACKAGES = (
    "configuration_lion",
    "laboratory",
    "lion_multimodal",
    "modeling_lion",
    "processing_lion",
    "trainers",
)
OTHER_LIBRARIES = ("accelerate", "datasets", "evaluate", "peft", "sentencepiece", "torchvision", "trl")

QUESTIONS = ["what is it?", "locate the cat"]


class HidingFinder:
    """A finder of modules that doesn't find some: a process of the tests' own environment becomes a bare one."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in (*OUR_PACKAGES, *OTHER_LIBRARIES):
            return None
        return self.finder.find_spec(fullname, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def observe(model, processor, pipe, image):
    """Numbers and words that must be the same wherever and however the checkpoint was loaded."""
    import torch

    inputs = processor(images=[image, image], text=QUESTIONS, tags=[["dog", "red ball"], None])
    with torch.no_grad():
        outputs = model(**inputs, labels=torch.tensor([[5, 6, 1], [7, 1, -100]]))
    ids = model.generate(**inputs, max_new_tokens=6)
    grounded = processor.post_process_grounding(["a dog [0.100,0.200,0.500,0.600]"], [(image.height, image.width)])[0]
    return {
        "level_ids": inputs["level_ids"].tolist(),
        "logits": outputs.logits.tolist(),
        "loss": outputs.loss.item(),
        "ids": ids.tolist(),
        "texts": processor.batch_decode(ids, skip_special_tokens=True),
        "boxes": grounded["boxes"].tolist(),
        "labels": grounded["labels"],
        "tags": pipe.tagger([image]),
        "caption": pipe(image, max_new_tokens=6),
        "answers": pipe([image, image], prompt=QUESTIONS, tags=[["dog", "cat"], False], batch_size=2, max_new_tokens=6),
    }


def load_and_observe(job):
    import torch
    import transformers
    from PIL import Image
    from transformers import pipeline

    repo, trusting = job["repo"], {"trust_remote_code": True}
    if "revision" in job:
        trusting["revision"] = job["revision"]
    image = Image.open(job["image"]).convert("RGB")
    processor = transformers.AutoProcessor.from_pretrained(repo, **trusting)
    model = transformers.AutoModelForImageTextToText.from_pretrained(repo, **trusting)
    pipe = pipeline("image-to-text", model=repo, **trusting)
    findings = observe(model, processor, pipe, image)

    by_name = {"AutoModelForImageTextToText": type(model).__name__}
    weights = {name: tensor.double().sum().item() for name, tensor in model.state_dict().items()}
    names = ["AutoModel", "AutoModelForSeq2SeqLM"]
    names += [name for name in ("AutoModelForVision2Seq", "AutoModelForMultimodalLM") if hasattr(transformers, name)]
    for name in names:
        other = getattr(transformers, name).from_pretrained(repo, **trusting)
        by_name[name] = type(other).__name__
        assert {k: v.double().sum().item() for k, v in other.state_dict().items()} == weights, name
    by_name["AutoConfig"] = type(transformers.AutoConfig.from_pretrained(repo, **trusting)).__name__
    by_name["AutoImageProcessor"] = type(transformers.AutoImageProcessor.from_pretrained(repo, **trusting)).__name__
    tagger = transformers.AutoModel.from_pretrained(repo, subfolder="tagger", **trusting)
    by_name["AutoModel of tagger"] = type(tagger).__name__
    inferred = pipeline(model=repo, **trusting)
    by_name["pipeline"] = type(inferred).__name__

    # The pipeline that transformers has itself, with plain text and with messages.
    builtin = pipeline("image-text-to-text", model=repo, **trusting)
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTIONS[0]}]
    options = {"return_full_text": False, "max_new_tokens": 6}
    findings["image-text-to-text"] = [
        builtin(images=image, text=QUESTIONS[0], **options)[0]["generated_text"],
        builtin(text=[{"role": "user", "content": content}], **options)[0]["generated_text"],
    ]

    for folder in job.get("alone", {}).values():
        folder["class"] = type(
            getattr(transformers, folder["auto"]).from_pretrained(folder["path"], trust_remote_code=True)
        ).__name__
    if "save_to" in job:
        inferred.save_pretrained(job["save_to"])
    if "push_to" in job:
        model.save_pretrained(job["scratch"], push_to_hub=True, repo_id=job["push_to"])
        processor.push_to_hub(job["push_to"])
        again = pipeline(model=job["push_to"], trust_remote_code=True, tagger=False)
        findings["pushed"] = again(image, prompt=QUESTIONS[0], tags="dog, red ball", max_new_tokens=6)
    return {
        **findings,
        "classes": by_name,
        "alone": {name: folder["class"] for name, folder in job.get("alone", {}).items()},
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "code": sorted({module.partition(".")[0] for module in sys.modules} & set(OUR_PACKAGES)),
    }


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        job = json.load(file)
    if job["hide"]:
        sys.meta_path[:] = [HidingFinder(finder) for finder in sys.meta_path]
    found = [name for name in (*OUR_PACKAGES, *OTHER_LIBRARIES) if importlib.util.find_spec(name) is not None]
    if found:
        raise SystemExit(f"not a bare environment: {found}")
    findings = load_and_observe(job)
    with open(job["findings"], "w") as file:
        json.dump(findings, file)
