"""hfgen sample TARGET"""

import json
from pathlib import Path
from typing import Any

import click

from hfgen.commands.options import CALL_OPTIONS, parse_numbers
from hfgen.commands.pipelines import load, set_prior, swap_scheduler
from hfgen.errors import HFGenError, UsageError


@click.command("sample")
@click.argument("target")
@click.option("--num_images", "-n", type=click.IntRange(1), help="How many images.  [default: 64; 8 of a walk]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Image i has seed SEED + i.")
@click.option("--seeds", help="The seeds themselves: 3,7,10-20; `--seeds 37` draws tile 37 of a grid of seed 0.")
@click.option("--class_labels", help="Classes of a conditional model: 3 or 0-9, repeated as often as needed.")
@click.option("--num_inference_steps", type=click.IntRange(1), help="Steps of a model that samples in many.")
@click.option(
    "--scheduler", help="Another of diffusers' schedulers, for a model that samples in many: euler, unipc ..."
)
@click.option("--eta", type=click.FloatRange(0, 1), help="How random each step is: 0 deterministic, 1 ancestral.")
@click.option("--guidance_scale", type=float, help="Of classifier-free guidance; 1 is the conditional model itself.")
@click.option("--timestep_spacing", help="Which steps are taken: leading, trailing, linspace, quadratic.")
@click.option("--clip_sample", help="Whether predicted images are cut off in each step: none, x0, x0_and_epsilon.")
@click.option("--temperature", type=click.FloatRange(0), help="Of the prior: below 1, typical images rather than all.")
@click.option("--truncation", type=click.FloatRange(0, min_open=True), help="Draw latents within so many deviations.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default="samples.png",
    show_default=True,
    help="grid.png (any image format), a FOLDER for single images, .npz for an array, .webp for a latent walk.",
)
@click.option("--num_frames", type=click.IntRange(2), default=60, show_default=True, help="Frames of a latent walk.")
@click.option("--batch_size", type=click.IntRange(1), default=64, show_default=True, help="Images drawn at a time.")
@click.option("--device", help="cpu, cuda ... (default: an accelerator where there is one).")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Precision of the weights.")
@click.option("--variant", help="Variant of the weights.")
@click.option("--revision", help="Branch, tag or commit of a repository.")
@click.option("--overwrite", is_flag=True, help="Replace what --output names.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    target: str, seed: int, num_images: int | None, seeds: str | None, output: Path, as_json: bool, **o: Any
) -> None:
    """Draw images from TARGET, a run folder, a checkpoint or a repository."""
    count = num_images or (8 if output.suffix == ".webp" else 64)
    numbers = parse_numbers(seeds) if seeds else list(range(seed, seed + count))
    kind = kind_of(output)
    refuse_to_overwrite(output, o["overwrite"])
    labels = parse_numbers(o["class_labels"]) if o["class_labels"] else None
    if labels is not None:
        labels = [labels[i % len(labels)] for i in range(len(numbers))]
    pipeline = load(target, o)
    if o["scheduler"]:
        swap_scheduler(pipeline, o["scheduler"])
    set_prior(pipeline, {name: o[name] for name in ("temperature", "truncation") if o[name] is not None})
    try:
        written = WRITERS[kind](pipeline, numbers, labels, output, o)
    except OSError as error:
        raise HFGenError(f"{output} cannot be written: {error}") from error
    result = {"output": str(output), "seeds": numbers, "images": written}
    click.echo(json.dumps(result) if as_json else str(output))


def kind_of(output: Path) -> str:
    """`walk`, `array`, `folder` or `grid`, by the name's ending."""
    from PIL import Image

    if output.suffix in (".webp", ".npz"):
        return {".webp": "walk", ".npz": "array"}[output.suffix]
    if output.suffix == "" or output.is_dir():
        return "folder"
    if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
        raise UsageError(f"--output {output}: {output.suffix} is no image format that can be written; try .png.")
    return "grid"


def refuse_to_overwrite(output: Path, overwrite: bool) -> None:
    if overwrite:
        return
    in_use = any(output.glob("seed_*.png")) if output.is_dir() else output.exists()
    if in_use:
        raise UsageError(f"--output {output} exists; nothing was drawn. Give another name, or --overwrite.")


def _draw(pipeline: Any, numbers: list[int], labels: list[int] | None, o: dict[str, Any]) -> list[Any]:
    from hfgen.modalities import image as grid

    options = {name: o[name] for name in CALL_OPTIONS if o[name] is not None}
    return grid.draw(pipeline, numbers, labels, o["batch_size"], **options)


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
    """`images` uint8 (N, H, W) or (N, H, W, C), `seeds` (N,), and `labels` (N,) where they were given."""
    import numpy as np

    arrays: dict[str, Any] = {"images": np.stack([np.asarray(image) for image in _draw(pipeline, numbers, labels, o)])}
    if labels is not None:
        arrays["labels"] = np.asarray(labels)
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output, **arrays, seeds=np.asarray(numbers))
    return len(numbers)


def write_walk(pipeline: Any, numbers: list[int], labels: list[int] | None, output: Path, o: dict[str, Any]) -> int:
    """An endless animation at 20 frames a second; small images are enlarged so that one can see them."""
    from PIL import Image

    frames = list(pipeline.interpolate(numbers, o["num_frames"], labels))
    factor = max(1, 224 // frames[0].width)
    frames = [f.resize((f.width * factor, f.height * factor), Image.Resampling.NEAREST) for f in frames]
    output.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(output, save_all=True, append_images=frames[1:], duration=50, loop=0, quality=80)
    return len(frames)


WRITERS = {"grid": write_grid, "folder": write_folder, "array": write_array, "walk": write_walk}
