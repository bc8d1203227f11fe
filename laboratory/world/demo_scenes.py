"""
The scenes that ship for `lion demo`: the first ten of the test split, as PNG files and a JSON file of questions.

    python -m laboratory.world.demo_scenes
"""

import json
from pathlib import Path

from laboratory.world.dataset import ask
from laboratory.world.scene import SPLITS, render, sample_scene
from lion_multimodal import checkpoints


NUM_SCENES = 10
_TASKS = (("caption",), ("color", "object", "count", "relation", "existence"), ("rec",))


def write_demo_scenes(folder: str | Path) -> None:
    """Write `scene_0.png`, ... and `scenes.json` into `folder`, the same ones every time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(NUM_SCENES):
        scene = sample_scene(SPLITS["test"][number])
        questions = []
        for tasks in _TASKS:
            sample = ask(scene, tasks, 1)[0]
            question = {"prompt": sample.prompt, "truth": sample.completion}
            if sample.task == "rec":
                question["about"] = next(item.name for item in scene.objects if item.normalized_box == sample.box)
            questions.append(question)
        file_name = f"scene_{number}.png"
        render(scene).save(folder / file_name, optimize=True)
        entries.append({"file_name": file_name, "questions": questions})
    (folder / "scenes.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_demo_scenes(Path(checkpoints.__file__).parent / "demo_scenes")
