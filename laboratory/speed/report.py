"""The figures as Markdown."""

from typing import Any

from trainers.publishing.markdown import markdown_table


def render(report: dict[str, Any]) -> str:
    """One table per device and dtype, then the profiles of what missed its target."""
    parts = ["# Speed of LION", ""]
    for run in report["runs"].values():
        parts += _run(run)
    return "\n".join(parts).rstrip() + "\n"


def _run(run: dict[str, Any]) -> list[str]:
    environment, sizes = run["settings"]["environment"], run["settings"]["sizes"]
    device = environment.get("gpu", "GPU") if run["device"] == "cuda" else environment["cpu"]
    lines = [
        f"## {device}, {run['dtype']}",
        "",
        f"{environment['threads']} thread(s) of {environment['cpu_count']} cores ({environment['cpu']}), "
        f"Python {environment['python']}, torch {environment['torch']}, transformers {environment['transformers']}; "
        f"medians of {run['settings']['repeats']} interleaved rounds.",
        "",
        f"Tower {sizes['vision_blocks']} x {sizes['vision_width']}, Q-Former {sizes['qformer_layers']} x "
        f"{sizes['qformer_width']}, T5 {sizes['t5_layers']} + {sizes['t5_layers']} x {sizes['d_model']} (feed-forward "
        f"{sizes['d_ff']}, vocabulary {sizes['vocab_size']}), random weights; {sizes['text_tokens']} text tokens, "
        f"{sizes['answer_tokens']} new tokens.",
        "",
    ]
    rows = []
    for name, figure in sorted(run["figures"].items()):
        verdict = {None: "", True: "reached", False: "**missed**"}[figure["passed"]]
        target = "" if figure["target"] is None else f"<= {figure['target']} {figure['unit']}"
        sides = "; ".join(f"{label} {_amount(value)}" for label, value in figure["seconds"].items())
        rows.append([name, figure["title"], f"{figure['value']:.2f} {figure['unit']}", target, verdict, sides])
    lines += [markdown_table(["figure", "what", "measured", "target", "", "each side, median"], rows)]
    for name, figure in sorted(run["figures"].items()):
        for label, table in figure["profile"].items():
            lines += [f"### Profile: {name}, {label}", "", "```", table.strip(), "```", ""]
    return lines


def _amount(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
