"""The command `hfgen push RUN ORG/NAME`."""

import json
from pathlib import Path
from typing import Any

import click

from hfgen.errors import UsageError
from hfgen.tokens import clean_token


@click.command("push", short_help="Publish a run on the Hub.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="ORG/NAME")
@click.option(
    "--private", is_flag=True, help="Create the repository as private; a repository that is public is refused."
)
@click.option("--revision", help="Branch to push to; created if it does not exist.  [default: main]")
@click.option("--create_pr", is_flag=True, help="Open a pull request instead, to any repository.")
@click.option("--commit_message", help="Title of the commit, or of the pull request.")
@click.option("--variant", help="Publish the weights under this name (ema), beside those that are there.")
@click.option("--max_shard_size", help="Split larger weights: 500MB, 5GB.")
@click.option(
    "--bundle_code", is_flag=True, help="Add code with which plain diffusers loads the model, without hfgen."
)
@click.option("--overwrite_card", is_flag=True, help="Replace a card that somebody edited on the Hub.")
@click.option("--token", help="Token of the Hub. Others may read a command line: prefer HF_TOKEN, or `hf auth login`.")
@click.option("--dry_run", is_flag=True, help="Check everything and print what would be sent; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(
    run: Path, repo_id: str, bundle_code: bool, dry_run: bool, as_json: bool, token: str | None, **o: Any
) -> None:
    """Publish RUN as one commit to ORG/NAME. RUN is the folder of a finished run, or one that save_pretrained wrote.

    The same commit removes shards, pictures and components of an earlier upload that this one replaces; files of
    others stay. Pickles, links, code, tokens, local paths and user names are refused before anything is sent. After an
    interruption or a failure, the same command goes on.

    With --bundle_code, DiffusionPipeline.from_pretrained(..., trust_remote_code=True) of plain diffusers loads the
    model where hfgen is not installed. hfgen itself loads it as usual and does not run that code.
    """
    token = clean_token(token, "--token")
    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; push the folder of a run, or one that save_pretrained wrote.")
    from diffusers.utils import logging

    from hfgen.cards.card import CARD
    from hfgen.hub.contents import prepared, sizes
    from hfgen.hub.publish import check_license, check_place, default_message, publish, retry_command
    from hfgen.hub.upload import Place
    from hfgen.repository import bundle

    logging.disable_progress_bar()
    message = o["commit_message"] or default_message()
    place = Place(repo_id, o["private"] or None, o["revision"], o["create_pr"], message, o["overwrite_card"])
    if not dry_run:
        pushed = publish(run, place, o["variant"], o["max_shard_size"], token, bundle_code=bundle_code)
        if bundle_code and not any(bundle.NAME.fullmatch(name) for name in pushed.files):
            click.echo(bundle.READABLE_ANYWAY, err=True)
        return click.echo(json.dumps(vars(pushed)) if as_json else summary(pushed))
    check_place(place)
    options = place, o["variant"], o["max_shard_size"]
    again = f"{retry_command(run, *options, bundle_code)} --dry_run"
    with prepared(run, *options, again, token, bundle_code) as ready:
        check_license(ready.files[CARD])
        files = sizes(ready)
    if bundle_code and not any(bundle.NAME.fullmatch(name) for name in files):
        click.echo(bundle.READABLE_ANYWAY, err=True)
    total = sum(files.values())
    click.echo(json.dumps({"repo_id": repo_id, "files": files, "bytes": total}) if as_json else tree(files))
    return click.echo(f"{len(files)} files, {total:,} bytes. Nothing was sent.", err=True)


def summary(pushed: Any) -> str:
    """Return one line for the user."""
    if pushed.unchanged:
        return f"{pushed.commit_url} holds it already; nothing was changed"
    removed = f", {len(pushed.removed)} of an earlier upload removed" if pushed.removed else ""
    return f"{pushed.commit_url} ({len(pushed.files)} files{removed})"


def tree(files: dict[str, int]) -> str:
    """Draw folders and files with their sizes.

    >>> print(tree({"README.md": 1200, "generator/config.json": 90, "generator/model.safetensors": 1048576}))
    README.md                 1,200
    generator/
      config.json                90
      model.safetensors   1,048,576
    """
    rows: list[tuple[str, str]] = []
    shown = ""
    for name, size in sorted(files.items(), key=lambda item: ("/" in item[0], item[0])):
        folder, _, file = name.rpartition("/")
        if folder != shown:
            rows.append((f"{folder}/", ""))
            shown = folder
        rows.append(("  " * bool(folder) + file, f"{size:,}"))
    names, numbers = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:<{names}}   {number:>{numbers}}".rstrip() for name, number in rows)
