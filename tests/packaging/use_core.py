"""
What somebody does who installed the package without any extra, in a folder of their own.

Run as `python -I use_core.py PICTURE [PACKAGE ...]`; the packages are hidden: those that a core-only environment lacks.
"""

import contextlib
import importlib.util
import io
import json
import sys


EXTRAS = ("accelerate", "bitsandbytes", "datasets", "evaluate", "matplotlib", "peft", "sentencepiece", "trl")
EXTRAS += ("fastapi", "prometheus_client", "uvicorn")


class Hiding:
    """A finder of modules that does not find some: the tests' own environment becomes a core-only one."""

    def __init__(self, finder, packages):
        self.finder = finder
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.packages else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def lion(*arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    from lion_multimodal.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()


def use(image: str) -> None:
    """Every use that needs no extra works, and what needs one says so."""
    import lion_multimodal
    from lion_multimodal import checkpoints
    from modeling_lion import AutoModelForVision2Seq

    found = {package: importlib.util.find_spec(package) for package in (*EXTRAS, "laboratory")}
    # A folder of the user has no origin.
    assert not [name for name, specification in found.items() if specification and specification.origin], found
    assert "site-packages" in lion_multimodal.__file__, lion_multimodal.__file__

    status, out, _ = lion("predict", image, "--prompt", "Question: What color is the flower? Short answer:", "--json")
    assert status == 0
    assert json.loads(out)["generated_text"] == "red", out
    status, out, err = lion("demo", "--scene", "3", "--output", "drawing.png")
    assert status == 0, err
    assert out.count("answered") == 3
    for command, extra in (
        (("eval", "--model", "nano", "--benchmark", "pope", "--output", "out"), "evaluation"),
        (("serve", "--port", "0"), "serve"),
        (("tag", ".", "--output", "tags.jsonl"), "train"),
        (("train", "all", "--config", "xl_one_gpu"), "train"),
    ):
        status, _, err = lion(*command)
        assert status == 1
        assert f'pip install "lion-multimodal[{extra}]"' in err, err

    repo = checkpoints.path("nano")
    from transformers import AutoModelForVision2Seq as OldName
    from transformers import AutoProcessor, pipeline

    assert OldName is AutoModelForVision2Seq
    model = AutoModelForVision2Seq.from_pretrained(repo)
    assert type(model).__module__ == "modeling_lion.modeling_lion"
    processor = AutoProcessor.from_pretrained(repo)
    model.save_pretrained("saved")
    processor.save_pretrained("saved")
    again = type(model).from_pretrained("saved")
    assert all(again.state_dict()[name].equal(value) for name, value in model.state_dict().items())
    prompt = "Question: What color is the flower? Short answer:"
    (answer,) = pipeline("image-to-text", model=str(repo), trust_remote_code=True)(image, prompt=prompt)
    assert answer["generated_text"] == "red", answer
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    (answer,) = pipe(images=image, text=prompt, return_full_text=False)
    assert answer["generated_text"].strip() == "red", answer


if __name__ == "__main__":
    sys.meta_path = [Hiding(finder, sys.argv[2:]) for finder in sys.meta_path]
    use(sys.argv[1])
    sys.stdout.write("used\n")
