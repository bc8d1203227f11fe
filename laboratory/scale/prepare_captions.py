"""
Memory and time of `lion data prepare coco_captions` on generated annotations of any size.

    python -m laboratory.scale.prepare_captions --rows 1000000 --directory /tmp/captions
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image


CAPTIONS_AN_IMAGE = 5


def write_annotations(directory: Path, rows: int) -> None:
    """Karpathy's dataset_coco.json with so many captions, and an image for each five of them."""
    folder = directory / "coco"
    (folder / "train2014").mkdir(parents=True, exist_ok=True)
    images = [folder / f"picture{number}.jpg" for number in range(8)]
    for number, path in enumerate(images):
        PIL.Image.radial_gradient("L").rotate(45 * number).convert("RGB").resize((64, 48)).save(path)
    with (folder / "dataset_coco.json").open("w") as file:
        file.write('{"images": [')
        for number in range(rows // CAPTIONS_AN_IMAGE):
            name = f"COCO_train2014_{number:012d}.jpg"
            link = folder / "train2014" / name
            if not link.is_symlink():
                link.symlink_to(images[number % len(images)])
            # A few of each split, as the real file has them.
            split = ("val", "test", "restval")[number % 3] if number % 20 == 0 else "train"
            texts = [f"A thing number {number} that stands near {word} in a street." for word in "abcde"]
            image = {
                "filepath": "train2014",
                "sentids": [CAPTIONS_AN_IMAGE * number + index for index in range(CAPTIONS_AN_IMAGE)],
                "filename": name,
                "imgid": number,
                "split": split,
                "sentences": [
                    {"tokens": text.split(), "raw": text, "imgid": number, "sentid": CAPTIONS_AN_IMAGE * number + index}
                    for index, text in enumerate(texts)
                ],
                "cocoid": number,
            }
            file.write((", " if number else "") + json.dumps(image))
        file.write('], "dataset": "coco"}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, required=True)
    arguments = parser.parse_args()
    write_annotations(arguments.directory, arguments.rows)
    command = [sys.executable, "-m", "lion_multimodal.cli.main", "data", "prepare", "coco_captions"]
    command += ["--source", str(arguments.directory), "--output", str(arguments.directory / "rows")]
    start = time.monotonic()
    subprocess.run([*command, "--hold-out", "karpathy"], check=True)
    seconds = time.monotonic() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = (arguments.directory / "coco" / "dataset_coco.json").stat().st_size
    print(
        json.dumps(
            {
                "annotations_mb": round(size / 2**20),
                "seconds": round(seconds),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
                "peak_memory_mb": round(usage.ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
