"""The command `hfgen sample TARGET`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hfgen.commands.class_labels import known_classes, parse_classes
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
from hfgen.errors import HFGenError, UsageError


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
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default="samples.png",
    show_default=True,
    help="grid.png (any image format), a FOLDER for single images, .npz for an array, .webp for a latent walk.",
)
@click.option("--num_frames", type=click.IntRange(2), default=60, show_default=True, help="Frames of a latent walk.")
@click.option("--batch_size", type=click.IntRange(1), default=64, show_default=True, help="Images sampled at a time.")
@loading_options
@click.option("--overwrite", is_flag=True, help="Replace the file or folder of --output.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    target: str, seed: int, num_images: int | None, seeds: str | None, output: Path, as_json: bool, **o: Any
) -> None:
    """Sample images from TARGET: a run folder, a checkpoint or a repository.

    Options of the model's own are those that its family's `sample` takes, such as --guidance_scale 3, and settings of
    its scheduler, as --scheduler.KEY VALUE or, in short, --temperature 0.7. A latent walk takes those of `decode`.
    `hfgen info TARGET` lists them with their defaults.
    """
    count = num_images or (8 if output.suffix == ".webp" else 64)
    numbers = parse_numbers(seeds) if seeds else list(range(seed, seed + count))
    kind = kind_of(output)
    refuse_beside("seeds", ["seed", "num_images"])
    if kind == "walk":
        refuse_given(["batch_size"], "on a latent walk")
    else:
        refuse_given(["num_frames"], "without a latent walk, such as --output walk.webp")
    refuse_to_overwrite(output, o["overwrite"])
    labels = parse_classes(o["class_labels"], known_classes(target, o["revision"])) if o["class_labels"] else None
    if labels is not None:
        labels = [labels[i % len(labels)] for i in range(len(numbers))]
    refuse_dotted(o["dotted"], ("scheduler",))
    chosen = chosen_options(target, o) if kind != "walk" else chosen_options(target, _of_a_walk(o), "decode")
    pipeline = load(target, o, chosen.scheduler)
    try:
        written = WRITERS[kind](pipeline, numbers, labels, output, {**o, "call": chosen.call})
    except OSError as error:
        raise HFGenError(f"{output} cannot be written: {error}") from error
    result = {"output": str(output), "seeds": numbers, "images": written}
    click.echo(json.dumps(result) if as_json else str(output))


def _of_a_walk(o: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with the number of steps among the model's own: not every family's `decode` takes one."""
    steps = o["num_inference_steps"]
    return {**o, "own": {**o["own"], **({} if steps is None else {"num_inference_steps": str(steps)})}}


def kind_of(output: Path) -> str:
    """Return `walk`, `array`, `folder` or `grid`, by the name's ending."""
    from PIL import Image

    if output.suffix in (".webp", ".npz"):
        return {".webp": "walk", ".npz": "array"}[output.suffix]
    if output.suffix == "" or output.is_dir():
        return "folder"
    if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
        raise UsageError(f"--output {output}: {output.suffix} is not an image format that can be written; try .png.")
    return "grid"


def refuse_to_overwrite(output: Path, overwrite: bool) -> None:
    if overwrite:
        return
    in_use = any(output.glob("seed_*.png")) if output.is_dir() else output.exists()
    if in_use:
        raise UsageError(f"--output {output} exists; nothing was sampled. Give another name, or --overwrite.")


def _draw(pipeline: Any, numbers: list[int], labels: list[int] | None, o: dict[str, Any]) -> list[Any]:
    from hfgen.modalities import image as grid

    steps = {} if o["num_inference_steps"] is None else {"num_inference_steps": o["num_inference_steps"]}
    return grid.draw(pipeline, numbers, labels, o["batch_size"], **steps, **o["call"])


def write_grid(pipeline: Any, numbers: list[int], labels: list[int] | None, output: Path, o: dict[str, Any]) -> int:
    from hfgen.modalities import image as grid

    images = _draw(pipeline, numbers, labels, o)
    grid.save_image(grid.image_grid(images), output)
    return len(images)


def write_folder(pipeline: Any, numbers: list[int], labels: list[int] | None, output: Path, o: dict[str, Any]) -> int:
    from hfgen.modalities import image as grid

    images = _draw(pipeline, numbers, labels, o)
    for number, image in zip(numbers, images, strict=True):
        grid.save_image(image, output / f"seed_{number:06d}.png")
    return len(images)


def write_array(pipeline: Any, numbers: list[int], labels: list[int] | None, output: Path, o: dict[str, Any]) -> int:
    """Write `images`, uint8, (N, H, W) or (N, H, W, C), `seeds` (N,), and `labels` (N,) if they were given."""
    import numpy as np

    arrays: dict[str, Any] = {"images": np.stack([np.asarray(image) for image in _draw(pipeline, numbers, labels, o)])}
    if labels is not None:
        arrays["labels"] = np.asarray(labels)
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output, **arrays, seeds=np.asarray(numbers))
    return len(numbers)


def write_walk(pipeline: Any, numbers: list[int], labels: list[int] | None, output: Path, o: dict[str, Any]) -> int:
    """Write an endless animation at 20 frames per second; small images are enlarged so that they can be seen."""
    from PIL import Image

    frames = list(pipeline.interpolate(numbers, o["num_frames"], labels, **o["call"]))
    factor = max(1, 224 // frames[0].width)
    frames = [f.resize((f.width * factor, f.height * factor), Image.Resampling.NEAREST) for f in frames]
    output.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(output, save_all=True, append_images=frames[1:], duration=50, loop=0, quality=80)
    return len(frames)


WRITERS = {"grid": write_grid, "folder": write_folder, "array": write_array, "walk": write_walk}
