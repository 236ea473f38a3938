"""hfgen plugins"""

import json

import click

from hfgen.errors import CheckError, HFGenError
from hfgen.registry import Family, conflict, list_families
from hfgen.results.words import table


@click.command("plugins")
@click.option("--check", is_flag=True, help="Import each family; exit code 3 if one fails.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(check: bool, as_json: bool) -> None:
    """List the families of all plugins, with their state; HFGEN_PLUGINS chooses among them."""
    families = list_families()
    rows = [
        {"name": f.name, "class": f.class_name, "plugin": f.source, "state": _state(f, families, check)}
        for f in families
    ]
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows))
    broken = [row["name"] for row in rows if row["state"] not in ("ok", "not imported")]
    if check and broken:
        raise CheckError(f"{len(broken)} of {len(rows)} families cannot be used: {', '.join(broken)}.")


def _state(family: Family, families: list[Family], check: bool) -> str:
    clash = conflict(family, families)
    if clash or not check:
        return clash or "not imported"
    try:
        family.load()
    except HFGenError as error:
        return str(error).splitlines()[0]
    return "ok"
