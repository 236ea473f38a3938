"""The command `hfgen sample TARGET`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hfgen.commands.class_labels import known_classes, parse_classes
from hfgen.commands.init_images import drawing_from, read_init_image, refuse_family
from hfgen.commands.options import (
    OwnOptionsCommand,
    loading_options,
    parse_numbers,
    refuse_beside,
    refuse_dotted,
    refuse_given,
    scheduler_option,
)
from hfgen.commands.own_options import chosen_options
from hfgen.commands.pipelines import load
from hfgen.commands.sample_files import Drawing, kind_of, refuse_to_overwrite, write_file, write_folder, write_walk
from hfgen.errors import HFGenError
from hfgen.modality import Modality
from hfgen.registry import list_modalities, modality_of


@click.command(
    "sample",
    cls=OwnOptionsCommand,
    short_help="Sample images from a model.",
    options_metavar="[OPTIONS] [--OPTION_OF_THE_MODEL VALUE] ...",
)
@click.argument("target")
@click.option("--num_images", "-n", type=click.IntRange(1), help="Number of images.  [default: 64; 8 for a walk]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Image i has the seed SEED + i.")
@click.option("--seeds", help="All seeds: 3,7,10-20; `--seeds 37` samples tile 37 of a grid with --seed 0.")
@click.option(
    "--class_labels",
    help="Classes of a conditional model, by name or number: cat,dog or 3 or 0-9; repeated as often as needed.",
)
@click.option("--num_inference_steps", type=click.IntRange(1), help="Steps of a model that samples in many.")
@scheduler_option
@click.option("--init_image", help="A picture that is edited: noise covers it, and images are drawn from there.")
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True),
    help="How much of the way to noise --init_image goes: the lower, the more of it is left.  "
    "[default: 0.5; 1 with a mask]",
)
@click.option("--mask_image", help="A picture of --init_image's size, white where it is drawn anew; the rest stays.")
@click.option(
    "--jump_length", type=click.IntRange(1), help="With a mask, the steps taken back at a time.  [default: 1]"
)
@click.option("--jump_n_sample", type=click.IntRange(1), help="With a mask, how often a step is taken.  [default: 10]")
@click.option(
    "--output",
    "-o",
    type=click.Path(),
    default="samples.png",
    show_default=True,
    help="grid.png (any image format), texts.txt or .jsonl; a FOLDER for single items, filled as they are drawn; the "
    "same command goes on there; .npz for an array; .webp, .gif or .apng for a latent walk.",
)
@click.option("--num_frames", type=click.IntRange(2), default=60, show_default=True, help="Frames of a latent walk.")
@click.option("--batch_size", type=click.IntRange(1), default=64, show_default=True, help="Images sampled at a time.")
@loading_options
@click.option("--overwrite", is_flag=True, help="Replace the file or folder of --output.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    target: str, seed: int, num_images: int | None, seeds: str | None, output: str, as_json: bool, **o: Any
) -> None:
    """Sample images from TARGET: a run folder, a checkpoint or a repository.

    Options of the model's own are those that its family's `sample` takes, such as --guidance_scale 3, and settings of
    its scheduler, as --scheduler.KEY VALUE or, in short, --temperature 0.7. A latent walk takes those of `decode`.
    `hfgen info TARGET` lists them with their defaults.
    """
    kind, place = kind_of(output, list_modalities()), Path(output)
    count = num_images or (8 if kind == "walk" else 64)
    numbers = parse_numbers(seeds) if seeds else list(range(seed, seed + count))
    refuse_beside("seeds", ["seed", "num_images"])
    if kind == "walk":
        refuse_given(["batch_size"], "on a latent walk")
    else:
        refuse_given(["num_frames"], "without a latent walk, such as --output walk.webp")
    given = read_init_image(o, kind == "walk")
    refuse_to_overwrite(place, o["overwrite"])
    asked_for = parse_classes(o["class_labels"], known_classes(target, o["revision"])) if o["class_labels"] else None
    labels = asked_for and [asked_for[i % len(asked_for)] for i in range(len(numbers))]
    refuse_dotted(o["dotted"], ("scheduler",))
    if given is not None:
        refuse_family(target, o)
    chosen = chosen_options(target, o) if kind != "walk" else chosen_options(target, _of_a_walk(o), "decode")
    pipeline = load(target, o, chosen.scheduler)
    call, begins = (pipeline, {}) if given is None else drawing_from(given, pipeline, {**o, "target": target})
    modality = modality_of(pipeline)
    kind, place = _of_modality(kind, output, modality)
    steps = (
        {} if o["num_inference_steps"] is None or kind == "walk" else {"num_inference_steps": o["num_inference_steps"]}
    )
    by_place = None if labels is None else {"given": asked_for, "seeds": seeds or seed}
    asked = {"class_labels": by_place, **begins}  # a label belongs to a place in the list of seeds
    drawing = Drawing(pipeline, call, numbers, labels, o["batch_size"], {**steps, **chosen.call}, asked)
    try:
        written = _write(drawing, kind, place, o)
    except OSError as error:
        raise HFGenError(f"{output} cannot be written: {error}") from error
    result = {"output": str(place), "seeds": numbers, modality.noun[1]: written}
    click.echo(json.dumps(result) if as_json else str(place))


def _of_modality(kind: str, output: str, modality: Modality) -> tuple[str, Path]:
    """Return kind and place for the model's modality: that of any was known before; by default its own file."""
    is_default = click.get_current_context().get_parameter_source("output") == ParameterSource.DEFAULT
    output = f"samples{Path(modality.sample_file).suffix}" if is_default else output
    return kind if kind == "folder" else kind_of(output, [modality]), Path(output)


def _write(drawing: Drawing, kind: str, place: Path, o: Mapping[str, Any]) -> int:
    if kind == "folder":
        return write_folder(drawing, place, o["overwrite"])
    if kind == "walk":
        return write_walk(drawing, place, o["num_frames"])
    return write_file(drawing, place, kind)


def _of_a_walk(o: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with the number of steps among the model's own: not every family's `decode` takes one."""
    steps = o["num_inference_steps"]
    return {**o, "own": {**o["own"], **({} if steps is None else {"num_inference_steps": str(steps)})}}
