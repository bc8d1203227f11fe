"""The benchmark of `lion predict` runs; its times are nobody's business here."""

import json

from transformers.utils import logging as transformers_logging

from laboratory.speed import prediction


def test_all_sides_answer_and_memory_is_measured(tmp_path, capsys):
    verbosity = transformers_logging.get_verbosity()
    arguments = ["--images", "4", "--batch-size", "2", "--tokens", "2", "--repeats", "1", "--rows", "40", "--no-tags"]
    try:
        assert prediction.main([*arguments, "--output", str(tmp_path)]) == 0
    finally:
        transformers_logging.set_verbosity(verbosity)
    report = json.loads((tmp_path / "prediction.json").read_text())
    (run,) = report["runs"]
    assert set(run["images_per_second"]) == {"lion predict", "one by one", "BLIP-2", "lion predict, without tags"}
    assert set(run["processor_ratios"]) == set(prediction.TARGETS)
    counts = [count for count, _ in report["memory"]["mebibytes"]]
    assert counts == sorted(counts)
    assert counts[-1] == 40
    assert "memory over 40 rows" in capsys.readouterr().out
