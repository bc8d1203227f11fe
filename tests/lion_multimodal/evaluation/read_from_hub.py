"""Reads benchmarks from the Hub that `HF_ENDPOINT` names, and prints what it finds as JSON."""

import json
import sys

from lion_multimodal.evaluation.benchmarks import get_benchmarks
from lion_multimodal.evaluation.rows import DataUnavailableError, load_image, read_examples


found: dict[str, dict] = {}
for benchmark in get_benchmarks(sys.argv[1]):
    try:
        examples = read_examples(benchmark)
    except DataUnavailableError as error:
        found[benchmark.name] = {"error": str(error)}
    else:
        found[benchmark.name] = {
            "source": examples.source,
            "ids": [example.id for example in examples],
            "sizes": [load_image(examples[index]).size for index in (0, -1)],
        }
json.dump(found, sys.stdout)
