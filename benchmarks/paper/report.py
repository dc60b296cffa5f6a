"""What people read of a study: a page of Markdown, and pictures, from its results alone.

What we had, and what differs from the papers, is told as of the run that made the results, whatever the study would do
today; what the papers had is the same for all runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import results
from ..tables import markdown
from .settings import what_was_run
from .study import Study, with_spread


def write_report(study: Study, content: Mapping[str, Any], out: Path) -> None:
    """Write the page and the study's pictures beside its results.

    Args:
        study: The study.
        content: Its results, as in the JSON.
        out: Folder.

    Raises:
        ResultsError: If a file cannot be written.
        MissingExtraError: Without matplotlib, where the study has pictures.
    """
    drawings = {f"{study.file}-{name}": draw for name, draw in study.pictures(content["summary"]).items()}
    if drawings:
        results.make_folder(out / "pictures")
    for name, draw in drawings.items():
        draw(out / "pictures" / name)
    with results.replacing(out / f"{study.file}.md") as file:
        file.write(page(study, content, list(drawings)).encode())


def page(study: Study, content: Mapping[str, Any], drawings: list[str]) -> str:
    """The page: question, figures, what the papers and we had, what differs, and where it comes from."""
    summary, origin = content["summary"], content["provenance"]
    sections = [
        f"# {study.file.capitalize()}",
        content["question"],
        study.table(summary),
        *(f"![{name}](pictures/{name})" for name in drawings),
        *_listed("What the papers had", () if study.is_open else study.papers),
        *_listed("What we had", what_was_run(content)),
        *_published(content["published"], summary),
        *_listed("What differs from the papers", content["differences"]),
        f'{len(content["rows"])} cells of the preset "{content["settings"]["preset"]}", seeds '
        f"{', '.join(map(str, content['seeds']))}, mean ± standard deviation over them; {content['seconds'] / 60:.0f} "
        f"minutes, {content['settings']['num_threads']} threads, {origin['device']}, {origin['cpu']}; torch "
        f"{origin['torch']}; {origin['date'][:10]}; made at commit {results.commits(content['rows'])}. All figures, "
        f"settings and checksums: [{study.file}.json]({study.file}.json).",
    ]
    return "\n\n".join(sections) + "\n"


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {line}" for line in lines)] if lines else []


def _published(published: Mapping[str, float], summary: Mapping[str, float]) -> list[str]:
    if not published:
        return []
    rows = [(key, f"{value:.4g}", with_spread(summary, key)) for key, value in published.items()]
    return ["## Published, and ours", markdown(("figure", "published", "ours"), rows, "lrr")]
