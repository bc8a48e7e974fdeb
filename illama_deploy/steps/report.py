"""Faces of reports that were measured before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..atomic import new_file
from ..console import as_text
from ..errors import ArtifactError, UsageError, parameter
from ..options import step
from ..options.steps import ReportOptions
from ..report import RENDERERS, read_report, render_history

__all__ = ["history", "report"]


@step(ReportOptions)
def report(options: ReportOptions) -> list[Path]:
    """Render each report in each format, beside it or into a directory.

    Returns:
        What was written.

    Raises:
        DeployError: an unknown format, or a file that is no report, damaged, edited or of another schema; nothing is
            written then.
    """
    files, formats, out = options.files, options.formats, options.out
    if bool(files) == (options.history is not None):
        raise UsageError(
            f"Neither files nor {parameter('history')} are given, or both.",
            hint=f"Name report.json files, or {parameter(history='DIR')}.",
        )
    if options.history is not None:
        return history(options.history, out, options.listener.say)
    if not files or not formats:
        raise UsageError(
            "There is nothing to render.", hint=f"Name one or more report.json files and a {parameter('formats')}."
        )
    if unknown := [name for name in formats if name not in RENDERERS]:
        raise UsageError(f"There is no format {unknown[0]!r}.", hint=f"Use some of: {','.join(RENDERERS)}.")
    paths = [Path(file) for file in files]
    contents = [read_report(path) for path in paths]
    folders = [path.parent for path in paths]
    if out is not None:
        labels = [p.absolute().parent.name if p.stem == "report" else p.stem for p in paths]
        if len(set(labels)) < len(labels):
            raise UsageError(
                "Two of the reports would be written to the same place.",
                where=", ".join(labels),
                hint=f"Render them one by one, each with an {parameter('out')} of its own.",
            )
        folders = [out] if len(paths) == 1 else [out / label for label in labels]
    written = []
    for path, content, folder in zip(paths, contents, folders, strict=True):
        for name in dict.fromkeys(formats):
            renderer = RENDERERS[name]
            with new_file(folder / renderer.file, force=True, inputs=[path]) as file:
                file.write_text(renderer.render(content), encoding="utf-8")
            written.append(folder / renderer.file)
    return written


def history(
    directory: str | Path, out: str | Path | None = None, say: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Draw the trend of every report in a directory and its folders: `history.html` and `history.md`.

    Args:
        say: told of every file that looks like a report and cannot be read; the others are drawn all the same.

    Raises:
        DeployError: none there, or none that can be read.
    """
    root = Path(directory)
    paths = sorted(path for path in root.rglob("*.json") if path.is_file() and _looks_like_report(path))
    if not paths:
        raise ArtifactError(
            "There is no report in it.", where=root, hint="Give a directory in which report.json files of 'check' lie."
        )
    contents, left_out = [], []
    for path in paths:
        try:
            contents.append(read_report(path))
        except ArtifactError as error:
            if len(paths) == 1:
                raise
            left_out.append((as_text(str(path)), error.what))
            say(f"left out {path}: {error.what}")
    if not contents:
        raise ArtifactError(
            f"None of the {len(paths)} reports in it can be read; the first: {left_out[0][1]}",
            where=paths[0],
            hint="Measure again with 'illama-deploy check'.",
        )
    files = render_history(contents, left_out)
    folder = Path(out) if out is not None else root
    for name, text in files.items():
        with new_file(folder / name, force=True, inputs=paths) as file:
            file.write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _looks_like_report(path: Path) -> bool:
    """By name or by its first bytes; other JSON (manifests, benchmark figures) may lie about."""
    if path.name == "report.json":
        return True
    try:
        with path.open("rb") as file:
            return b"illama-deploy/report/" in file.read(200)
    except OSError:
        return False
