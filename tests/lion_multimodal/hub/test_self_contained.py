"""A saved directory needs nothing of this project: loaded elsewhere it gives what the package gives, and saves on."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lion_multimodal import checkpoints
from modeling_lion import LionImageToTextPipeline, save_lion
from processing_lion.remote_code_lion import IMAGE_PROCESSOR_CODE, LION_CODE, PROCESSOR_CODE, TAGGER_CODE, write_code
from tests.lion_multimodal.hub.conftest import THIS_MAJOR, bare_majors
from tests.lion_multimodal.hub.load_repo import OUR_PACKAGES, observe


ROOT = Path(__file__).parents[3]
# transformers itself needs the last two.
ALLOWED = {"PIL", "numpy", "torch", "transformers", "safetensors", "tokenizers"}
EXACT = ("level_ids", "ids", "texts", "labels", "tags", "caption", "answers")
CLOSE = ("logits", "loss", "boxes")


@pytest.fixture(scope="module")
def expected(model, processor, tagger, image):
    pipe = LionImageToTextPipeline(model=model, processor=processor, tagger=tagger)
    return observe(model, processor, pipe, image)


def assert_same(findings: dict, expected: dict) -> None:
    for name in EXACT:
        assert findings[name] == expected[name], name
    for name in CLOSE:
        torch.testing.assert_close(torch.tensor(findings[name]), torch.tensor(expected[name]), atol=1e-4, rtol=1e-4)
    # Both of transformers' own ways to ask the first question, whose tag sentence is left out there.
    assert len(set(findings["image-text-to-text"])) == 1


def names(files) -> set[str]:
    return {Path(file).name for file in files}


def code_in(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.py")}


def test_three_generations_on_both_majors(model, processor, tagger, expected, load_elsewhere, tmp_path):
    """Package -> repo -> loaded by remote code and saved -> loaded and saved -> loaded; majors take turns."""
    repo = tmp_path / "lion-first"
    save_lion(repo, model, processor, tagger)
    model.save_pretrained(tmp_path / "lion-alone")
    tagger.model.save_pretrained(tmp_path / "tagger-alone")
    processor.save_pretrained(tmp_path / "processor-alone")
    processor.image_processor.save_pretrained(tmp_path / "image-alone")
    alone = {
        "lion": {"path": tmp_path / "lion-alone", "auto": "AutoModel"},
        "tagger": {"path": tmp_path / "tagger-alone", "auto": "AutoModel"},
        "processor": {"path": tmp_path / "processor-alone", "auto": "AutoProcessor"},
        "image processor": {"path": tmp_path / "image-alone", "auto": "AutoImageProcessor"},
        "tagger of a repo": {"path": repo / "tagger", "auto": "AutoModel"},
    }
    other, *own = bare_majors()
    majors = [other, *own, other] if own else [THIS_MAJOR] * 3
    for generation, major in enumerate(majors):
        following = tmp_path / f"lion-after-{generation}"
        findings = load_elsewhere(major, repo=repo, save_to=following, alone=alone)
        assert_same(findings, expected)
        classes = findings["classes"]
        assert classes.pop("AutoConfig") == "LionConfig"
        assert classes.pop("AutoImageProcessor") == "LionImageProcessor"
        assert classes.pop("AutoModel of tagger") == "RamForImageTagging"
        assert classes.pop("pipeline") == "LionImageToTextPipeline"
        assert set(classes.values()) == {"LionForConditionalGeneration"}
        assert ("AutoModelForVision2Seq" if major == 4 else "AutoModelForMultimodalLM") in classes

        for folder in (repo, following):
            assert code_in(folder) == names(LION_CODE)
            assert code_in(folder / "tagger") == names(TAGGER_CODE)
            assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
        for file in names(LION_CODE):
            assert (following / file).read_text() == (repo / file).read_text(), file
        repo = following


def test_each_part_alone_brings_its_own_code_and_no_more(model, processor, tagger, tmp_path):
    for part, files in (
        (model, LION_CODE),
        (processor, PROCESSOR_CODE),
        (processor.image_processor, IMAGE_PROCESSOR_CODE),
        (tagger.model, TAGGER_CODE),
    ):
        folder = tmp_path / type(part).__name__
        part.save_pretrained(folder)
        assert code_in(folder) == names(files)


def test_the_configuration_names_classes_of_the_repo_itself(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    references = [*config["auto_map"].values(), *(task["impl"] for task in config["custom_pipelines"].values())]
    for reference in references:
        module, name = reference.split(".")
        tree = ast.parse((tmp_path / f"{module}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_shipped_code_imports_only_what_a_bare_environment_has(tmp_path):
    write_code(tmp_path, LION_CODE)
    for file in tmp_path.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (tmp_path / f"{node.module}.py").is_file(), f"{file.name}: .{node.module}"
                continue
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            packages = {module.partition(".")[0] for module in modules}
            assert packages <= ALLOWED | set(sys.stdlib_module_names), file.name


def test_every_shipped_file_is_within_reach_of_transformers_copying(tmp_path):
    """transformers reads relative imports by a regular expression, and from local folders (4.57) one level deep."""
    write_code(tmp_path, LION_CODE)
    pattern = re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE)

    def reach(module: str) -> set[str]:
        return set(pattern.findall((tmp_path / f"{module}.py").read_text()))

    everything = {Path(file).stem for file in LION_CODE}
    assert reach("modeling_lion") | {"modeling_lion"} == everything
    for entry in ("configuration_lion", "image_processing_lion", "modeling_ram", "pipeline_lion", "processing_lion"):
        direct = reach(entry)
        assert set().union(*(reach(module) for module in direct)) <= direct | {entry}


def test_writing_code_twice_changes_nothing(tmp_path):
    write_code(tmp_path, LION_CODE)
    first = {file.name: file.read_text() for file in tmp_path.glob("*.py")}
    write_code(tmp_path, LION_CODE)
    assert {file.name: file.read_text() for file in tmp_path.glob("*.py")} == first
    assert not any(re.search(rf"^\s*(from|import) ({'|'.join(OUR_PACKAGES)})\b", code, re.M) for code in first.values())


@pytest.mark.parametrize("name", checkpoints.available())
def test_shipped_checkpoints_carry_the_code_of_this_very_state(name, tmp_path):
    """Where this fails, `make checkpoint-code` brings the checkpoint's folders up to date."""
    for folder, files in (("", LION_CODE), ("tagger", TAGGER_CODE)):
        shipped = checkpoints.path(name) / folder
        write_code(tmp_path, files)
        assert code_in(shipped) == names(files)
        for file in names(files):
            assert (shipped / file).read_text() == (tmp_path / file).read_text(), file


def test_a_tagger_without_its_image_processor_is_refused_before_anything_is_written(model, processor, tagger, tmp_path):
    with pytest.raises(TypeError, match="`tagger` must have a `model` and an `image_processor`"):
        save_lion(tmp_path / "repo", model, processor, tagger.model)
    assert not (tmp_path / "repo").exists()


HIDE = """
import json, sys
class Hiding:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in PACKAGES else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""
TWO = """
from transformers import AutoModelForImageTextToText
found = []
for folder in sys.argv[1:]:
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    found.append([getattr(type(model), "mark", None), type(model).__module__.startswith("transformers_modules.")])
print(json.dumps(found))
"""


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}


@pytest.mark.skipif(THIS_MAJOR < 5, reason="version 4 finds remote code by the folder's name")
def test_each_of_two_checkpoints_runs_its_own_code(model, tmp_path):
    """Their models' code differs, their configurations' does not."""
    folders = []
    for mark in ("first", "second"):
        folder = tmp_path / mark
        model.save_pretrained(folder)
        packages = tmp_path / f"packages_{mark}"
        for package in OUR_PACKAGES:
            if (ROOT / package).is_dir():
                shutil.copytree(
                    ROOT / package, packages / package, ignore=shutil.ignore_patterns("nano", "__pycache__")
                )
        code = packages / "modeling_lion" / "modeling_lion.py"
        head = "class LionForConditionalGeneration(LionPreTrainedModel, GenerationMixin):\n"
        assert head in code.read_text()
        code.write_text(code.read_text().replace(head, f'{head}    mark = "{mark}"\n'))
        write = "import sys; from processing_lion.remote_code_lion import *; write_code(sys.argv[1], LION_CODE)"
        subprocess.run([sys.executable, "-c", write, str(folder)], cwd=packages, check=True, env=clean_environment())
        folders.append(str(folder))
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"PACKAGES = {OUR_PACKAGES!r}" + HIDE + TWO, *folders],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**clean_environment(), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [["first", True], ["second", True]]
