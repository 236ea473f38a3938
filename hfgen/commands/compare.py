"""hfgen compare TARGET TARGET ..."""

import contextlib
import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hfgen.commands.options import refuse_given
from hfgen.errors import HFGenError, UsageError

if TYPE_CHECKING:
    from hfgen.results.comparison import Comparison

KINDS = (".md", ".html", ".png", ".svg")
SIGNS = {"best": " *", "not separable": " ~", None: ""}
LEGEND = {"best": "* best: separable from every other", "not separable": "~ not separable from the best"}


@click.command("compare", short_help="Compare measured models side by side.")
@click.argument("targets", metavar="TARGET ...", nargs=-1, required=True)
@click.option("--protocol", help="The protocol whose results are compared.  [default: the one that all targets have]")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A table (.md), a page (.html) or a plot (.png, .svg)."
)
@click.option("--overwrite", is_flag=True, help="Replace what --output names.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    targets: tuple[str, ...], protocol: str | None, output: Path | None, overwrite: bool, as_json: bool
) -> None:
    """Compare what `hfgen evaluate` has measured: quality with its errors, likelihood, cost.

    A TARGET is the folder of a run, a checkpoint or a model card, a folder of results, a result file or a repository.
    Nothing is measured here, and only values under the same rules are compared.
    """
    from hfgen.results.comparison import compare

    if output is not None:
        check_output(output, overwrite)
    else:
        refuse_given(["overwrite"], "without --output")
    comparison = compare(targets, protocol, _fetch)
    if output is not None:
        write(output, comparison)
        click.echo(f"written to {output}", err=True)
    click.echo(json.dumps(comparison.to_dict(), indent=2, allow_nan=False) if as_json else text(comparison))


def _fetch(target: str, patterns: list[str]) -> str:
    from hfgen.hub.download import local_folder  # costs torch, which a comparison of folders does not need

    return str(local_folder(target, patterns))


def check_output(output: Path, overwrite: bool) -> None:
    """Raise a UsageError where the file could not be written, before anything is read."""
    if output.suffix.lower() not in KINDS:
        raise UsageError(
            f"--output {output}: a comparison is written as {', '.join(KINDS)}; end the name in one of them."
        )
    if output.exists() and not overwrite:
        raise UsageError(f"--output {output} exists; nothing was written. Give another name, or --overwrite.")


def write(output: Path, comparison: "Comparison") -> None:
    """Write the file, whole or not at all."""
    data = content(comparison, output.suffix.lower())
    temporary = output.with_name(f".{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, output)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise HFGenError(f"{output} cannot be written: {error}") from error


def content(comparison: "Comparison", suffix: str) -> bytes:
    """The bytes of a file with this ending."""
    from hfgen.results.page import markdown, page
    from hfgen.results.plot import image, plottable

    if suffix == ".md":
        return markdown(comparison).encode()
    if suffix == ".html":
        return page(comparison, image(comparison, "png") if plottable(comparison) else None).encode()
    return image(comparison, suffix.removeprefix("."))


def text(comparison: "Comparison") -> str:
    """Tables for a terminal: signs mark the best and what is not separable from it, explained below."""
    from hfgen.results.page import subject, tables
    from hfgen.results.words import table as columns

    blocks, seen = [subject(comparison)], set()
    for table in tables(comparison):
        seen |= {cell.mark for row in table.rows for cell in row}
        lines = [table.columns, *([f"{cell.text}{SIGNS[cell.mark]}" for cell in row] for row in table.rows)]
        blocks.append(f"{table.title}\n{columns([{str(i): word for i, word in enumerate(line)} for line in lines])}")
    legend = [words for mark, words in LEGEND.items() if mark in seen]
    notes = [textwrap.fill(note, 119, subsequent_indent="  ") for note in comparison.notes]
    return "\n\n".join([*blocks, "\n".join([*legend, *notes])])
