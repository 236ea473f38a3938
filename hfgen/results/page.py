"""A comparison as tables of words, and those as Markdown or as one HTML page that needs nothing beside it."""

import base64
import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from hfgen.results.comparison import Comparison, letter
from hfgen.results.metrics import FACTS, LIKELIHOOD, METRICS, QUALITY, RECONSTRUCTION
from hfgen.results.rows import Mark, Row
from hfgen.results.words import extractor_in_words, kind_of, markdown_row, marked, plain_text, shown


class Cell(NamedTuple):
    text: str
    mark: Mark | None = None


class Table(NamedTuple):
    """Rows of as many cells as there are columns."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


def subject(c: Comparison) -> str:
    """`2 models by mnist-v1: 10,000 images of seed 0 on; 10,000 real ones of ylecun/mnist; digitnet-mnist`"""
    models = len({row.result.key for row in c.rows})
    parts = [f"{c.protocol['num_images']:,} {c.noun} of seed {c.protocol['seed']} on"] if c.extractor else []
    parts += [f"{c.reference['images']:,} real ones of {c.reference['name']}"]
    parts += [f"features of {extractor_in_words(c.extractor)}"] if c.extractor else []
    return f"{models} {'model' if models == 1 else 'models'} by {c.protocol['name']}: {'; '.join(parts)}"


def tables(c: Comparison) -> list[Table]:
    """The tables of quality, of likelihood and reconstruction, and of cost; an empty one is left out."""
    return [table for table in (_quality(c), _likelihood(c), _cost(c)) if table is not None]


def _quality(c: Comparison) -> Table | None:
    names = c.measured(QUALITY)
    rows = [[Cell(row.name), Cell(row.sampler), *(_cell(row, name) for name in names)] for row in c.rows]
    if c.floor:
        floor = [Cell(shown(c.floor[name]) if name in c.floor else "") for name in names]
        rows.append([Cell("real images"), Cell(""), *floor])
    return Table("Quality", ["model", "sampler", *_titles(names)], rows) if names else None


def _likelihood(c: Comparison) -> Table | None:
    """A row for each model, whose likelihood is the same however images are drawn, unless it was not."""
    names, others = c.measured(LIKELIHOOD), c.measured(RECONSTRUCTION)
    rows: dict[tuple[Any, ...], list[Cell]] = {}
    for row in c.rows:
        if set(row.values) & {*names, *others}:
            kind = [Cell(_kind(row))] if names else []
            cells = [*(_cell(row, n) for n in names), *kind, *(_cell(row, n) for n in others)]
            rows.setdefault((row.result.key, *cells), [Cell(row.name), *cells])
    columns = ["model", *_titles(names), *(["kind"] if names else []), *_titles(others)]
    title = " and ".join(["Likelihood"] * bool(names) + ["Reconstruction"] * bool(others)).capitalize()
    return Table(title, columns, list(rows.values())) if rows else None


def _cost(c: Comparison) -> Table | None:
    names, several = c.measured(FACTS), len(c.hardware) > 1
    rows = []
    for row in c.rows:
        cells = {name: _cell(row, name) for name in names}
        if several and "seconds_per_image" in row.values:
            cells["seconds_per_image"] = Cell(f"{cells['seconds_per_image'].text} ({letter(row.hardware)})")
        rows.append([Cell(row.name), Cell(row.sampler), *cells.values()])
    return Table("Cost", ["model", "sampler", *_titles(names)], rows) if names else None


def _titles(names: Sequence[str]) -> list[str]:
    return [METRICS[name].title for name in names]


def _cell(row: Row, name: str) -> Cell:
    value = row.values.get(name)
    if value is None:
        return Cell("-")
    return Cell(marked(name, value, row.likelihood), value.get("mark"))


def _kind(row: Row) -> str:
    """`lower bound, 8 importance samples, of 256 values, 1,000 images`"""
    return kind_of(row.likelihood, row.result.noun) if set(row.values) & set(LIKELIHOOD) else "-"


# --- as text ----------------------------------------------------------------------------------------------------
def markdown(c: Comparison) -> str:
    """The tables and notes in Markdown; names from result files stay plain text."""
    lines = [plain_text(subject(c)), ""]
    for table in tables(c):
        head = [markdown_row(map(plain_text, table.columns)), markdown_row(["---"] * len(table.columns))]
        lines += [f"### {table.title}", "", *head]
        lines += [markdown_row(map(_in_markdown, row)) for row in table.rows] + [""]
    return "\n".join([*lines, *(f"- {plain_text(note)}" for note in c.notes)]) + "\n"


def _in_markdown(cell: Cell) -> str:
    text = plain_text(cell.text)
    return {"best": f"**{text}** (best)", "not separable": f"{text} (not separable)"}.get(cell.mark or "", text)


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #222 }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top }}
td + td + td {{ white-space: nowrap }}
td:first-child {{ overflow-wrap: anywhere; min-width: 8rem }}
th {{ border-bottom: 2px solid #888 }}
tr.floor td {{ color: #666; font-style: italic }}
.best {{ font-weight: 700; color: #075 }}
small {{ color: #666; font-weight: 400 }}
img {{ max-width: 100%; height: auto }}
li {{ margin: .2rem 0; overflow-wrap: anywhere }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{subject}</p>
{body}
<h2>Notes</h2>
<ul>
{notes}
</ul>
</body>
</html>
"""


def page(c: Comparison, png: bytes | None) -> str:
    """The comparison as one HTML file: it runs and fetches nothing, and all text from files is escaped."""
    parts = [_in_html(table) for table in tables(c)]
    if png is not None:
        source = base64.b64encode(png).decode()
        parts.append(
            f'<h2>Quality and time</h2>\n<img alt="FID by seconds per image" src="data:image/png;base64,{source}">'
        )
    notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in c.notes)
    return PAGE.format(title="Models compared", subject=html.escape(subject(c)), body="\n".join(parts), notes=notes)


def _in_html(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join(f"{_tr(row)}{''.join(map(_td, row))}</tr>" for row in table.rows)
    return f'<h2>{table.title}</h2>\n<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


def _tr(row: Sequence[Cell]) -> str:
    return '<tr class="floor">' if row[:2] == [Cell("real images"), Cell("")] else "<tr>"


def _td(cell: Cell) -> str:
    text = html.escape(cell.text)
    kind = ' class="best"' if cell.mark == "best" else ""
    return f"<td{kind}>{text}{f'<br><small>{cell.mark}</small>' if cell.mark else ''}</td>"
