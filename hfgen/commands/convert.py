"""The command `hfgen convert SOURCE TARGET`."""

import json
from pathlib import Path
from typing import Any

import click

from hfgen.commands.options import DottedCommand


@click.command("convert", short_help="Convert a model of another library.", cls=DottedCommand)
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--format", "format_name", help="Format of SOURCE, if it is not recognized: `hfgen list formats`.")
@click.option("--model", help="Family of the new pipeline, if SOURCE does not say it: `hfgen list models`.")
@click.option(
    "--allow_pickle", is_flag=True, help="Read pickles (.pt, .pth, .bin), with weights_only and no other way."
)
@click.option("--revision", help="Branch, tag or commit of a repository.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(
    source: str,
    target: Path,
    allow_pickle: bool,
    revision: str | None,
    as_json: bool,
    dotted: dict[str, Any],
    **o: Any,
) -> None:
    """Convert SOURCE to a pipeline folder TARGET. SOURCE is a file, folder or repository that another library saved.

    Every tensor must have a place in a network of hfgen; else nothing is written, and the message names the others.
    Options that a state dict does not hold are given as --COMPONENT.KEY VALUE, as for `hfgen train`. A pickle can run
    code when it is read: it is read only with --allow_pickle, and then only for its tensors.

    \b
    hfgen convert netG_epoch_24.pth runs/faces --allow_pickle
    hfgen convert generator.pt runs/gan --allow_pickle --format torchgan --generator.activation relu
    hfgen convert my_model/final_model runs/vae --allow_pickle
    hfgen convert org/an-old-diffusion-model runs/diffusion --allow_pickle
    """
    from diffusers.utils import logging

    from hfgen.conversion.convert import convert, open_source, refuse_used

    logging.disable_progress_bar()
    refuse_used(target)  # before anything is fetched
    done = convert(open_source(source, allow_pickle, revision), target, o["format_name"], o["model"], dotted)
    for note in done["notes"]:
        click.echo(note, err=True)
    click.echo(json.dumps(done) if as_json else done["output"])
