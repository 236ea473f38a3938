"""The commands `hfgen plugins`, `hfgen plugins --check` and `hfgen plugins new`."""

import json

import click

from hfgen.commands import new_plugin
from hfgen.commands.options import refuse_given
from hfgen.errors import CheckError, HFGenError, first_line
from hfgen.registry import GROUPS, Entry, conflict, installed, misspelled_plugins
from hfgen.results.words import table


@click.group("plugins", short_help="List what plugins register, or write one.", invoke_without_command=True)
@click.option("--check", is_flag=True, help="Import each of them; exit code 3 if one fails.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, check: bool, as_json: bool) -> None:
    """List what plugins register: families, models that a family wraps, extractors, formats; with their state.

    HFGEN_PLUGINS chooses among the installed distributions. `hfgen plugins new` writes another.
    """
    if context.invoked_subcommand is not None:
        return refuse_given(["check", "as_json"], f"before {context.invoked_subcommand}")
    for line in misspelled_plugins():
        click.echo(line, err=True)
    rows = [_row(entry, entries, check) for entries in map(installed, GROUPS) for entry in entries]
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows))
    broken = [row["name"] for row in rows if row["state"] not in ("ok", "not imported")]
    if check and broken:
        raise CheckError(f"{len(broken)} of {len(rows)} entries cannot be used: {', '.join(broken)}.")
    return None


command.add_command(new_plugin.command)


def _row(entry: Entry, entries: list[Entry], check: bool) -> dict[str, str]:
    state = conflict(entry, entries) or (_imported(entry) if check else "not imported")
    kind = entry.group.noun
    return {"name": entry.name, "class": entry.class_name, "kind": kind, "plugin": entry.source, "state": state}


def _imported(entry: Entry) -> str:
    try:
        entry.load()
    except HFGenError as error:
        return first_line(error)
    return "ok"
