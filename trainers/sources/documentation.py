"""The sources of training data as a page of documentation."""

from __future__ import annotations

from trainers.sources import SOURCES
from trainers.sources.source import RowKind, TrainingSource


def source_table() -> str:
    """The sources as a table in Markdown: rows, weights, licences."""
    lines = [
        "| source | stage | rows of training | weight | licence |",
        "|---|---|---|---|---|",
    ]
    for source in SOURCES.values():
        for kind in source.kinds:
            name = f"[{source.title}](#{source.name}){f', {kind.name}' if kind.name else ''}"
            cells = (name, source.stage[-1], _rows(kind), f"{kind.weight:g}", source.licence)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def source_sections() -> str:
    """A section for each source: files, schemas, what is left out, wordings."""
    return "\n\n".join(_section(source) for source in SOURCES.values())


def _rows(kind: RowKind) -> str:
    return f"{'' if kind.exact else 'about '}{kind.expected['train']:,}"


def _section(source: TrainingSource) -> str:
    folders = " or ".join(f"`{folder}/`" for folder in source.folders)
    images = " or ".join(f"`{folder}/`" for folder in source.image_folders)
    lines = [
        f"### {source.name}",
        "",
        f"{source.title}: `lion data prepare {source.name}`; from <{source.homepage.split(', ')[0]}>. Annotations in "
        f"{folders}, images in {images}.",
        "",
        "| read from | schema | |",
        "|---|---|---|",
    ]
    for form in source.forms:
        files = ", ".join(f"`{name}`" for name in dict.fromkeys(n for f in form.files.values() for n in f.values()))
        hub = " (`--source hub` as well)" if form.hub else ""
        note = form.note[:1].upper() + form.note[1:]
        lines.append(f"| {form.name}{hub}: {files.replace('|', ' or ')} | {form.schema} | {note} |")
    lines += ["", f"Left out: {source.left_out}."]
    for kind in source.kinds:
        title = f"Wordings of {kind.name}" if kind.name else "Wordings"
        lines += ["", f"{title} ({kind.prompt_source}):", ""]
        lines += [f"- `{prompt}`" for prompt in kind.prompts]
    return "\n".join(lines)
