"""The picture that `hfgen sample` begins with, `--init_image`, and where it is drawn anew, `--mask_image`.

The files are looked at before anything slow is imported; they are brought to the model's size once that is known.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from PIL import Image

from hfgen.commands.options import refuse_given
from hfgen.commands.targets import check_target
from hfgen.errors import HFGenError, UsageError
from hfgen.files import read_config_file

JUMPS = ("jump_length", "jump_n_sample")


@dataclass(frozen=True)
class InitImage:
    """Upright pictures of one size; without a mask the whole image is edited."""

    name: str
    image: Image.Image
    mask: Image.Image | None


def read_init_image(o: Mapping[str, Any], is_walk: bool) -> InitImage | None:
    """Read the pictures that a command line names; return None without `--init_image`.

    Args:
        o: the options `init_image`, `mask_image`, `strength`, `jump_length` and `jump_n_sample`.

    Raises:
        UsageError: a file that cannot be read as a picture; a mask of another size, or one that is the same
            everywhere; options that have no effect.
    """
    if o["init_image"] is None:
        refuse_given(["strength", "mask_image", *JUMPS], "without --init_image")
        return None
    if is_walk:
        refuse_given(["init_image"], "on a latent walk")
    if o["mask_image"] is None:
        refuse_given(JUMPS, "without --mask_image")
        return InitImage(o["init_image"], _picture("init_image", o["init_image"]), None)
    image, mask = _picture("init_image", o["init_image"]), _picture("mask_image", o["mask_image"]).convert("L")
    if mask.size != image.size:
        raise UsageError(
            f"--mask_image {o['mask_image']} is {mask.width}x{mask.height}, and --init_image {image.width}x"
            f"{image.height}; a mask is of the image's size."
        )
    known, drawn = (any(mask.histogram()[half]) for half in (slice(128), slice(128, 256)))
    if not (known and drawn):
        why = "black everywhere: nothing would be drawn" if known else "white everywhere: nothing would stay"
        raise UsageError(f"--mask_image {o['mask_image']} is {why}. White is what is drawn anew.")
    return InitImage(o["init_image"], image, mask)


def _picture(option: str, name: str) -> Image.Image:
    from hfgen.data.pixels import UNREADABLE, loaded, upright
    from hfgen.modalities.formats import check_memory, open_picture

    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--{option} {name}: there is no such file.")
    try:
        with open_picture(path) as image:
            check_memory(image)
            return upright(loaded(image).copy())
    except UNREADABLE as error:
        raise UsageError(f"--{option} {name} cannot be read: {error}.") from error


def refuse_family(target: str, o: Mapping[str, Any]) -> None:
    """Raise a UsageError of a model whose family does not draw from given images, before its weights are read."""
    check_target(target)
    from hfgen.editing import edits
    from hfgen.evaluation.any_pipeline import classes_at

    pipeline_class, _ = classes_at(target, revision=o["revision"], variant=o["variant"])
    if not (hasattr(pipeline_class, "sample") and edits(pipeline_class)):
        raise UsageError(
            f"--init_image: {target} is a {pipeline_class.__name__}, which does not draw in steps from noise to\n"
            "images, and so cannot begin at a given one."
        )


def drawing_from(given: InitImage, pipeline: Any, o: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the call that draws from the pictures, and what it depends on, for the record of a folder.

    A picture of another size or mode is brought to the model's as a training brings its own: turned upright, converted
    and resized, its middle cut out; a line says so.
    """
    import torch

    from hfgen.data.pixels import resize, to_pixels
    from hfgen.editing import MODES

    channels, height, width = pipeline.image_shape
    mode, image = MODES[channels], given.image
    if height != width:
        raise UsageError(f"--init_image: this model's images are {width}x{height}; use `pipeline.edit` in Python.")
    crop = _crops(o["target"], o["revision"])
    if image.size != (width, height) or image.mode != mode:
        said = f"{given.name} is {image.width}x{image.height}, {image.mode}; taken as {width}x{height}, {mode}"
        click.echo(f"{said}, as a training takes its images.", err=True)
    try:
        pixels = to_pixels(image, mode, width, crop)
    except ValueError as error:
        raise UsageError(f"--init_image {given.name}: {error}.") from error
    start, asked = (
        torch.from_numpy(pixels)[None] / 127.5 - 1,
        {"init_image": hashlib.sha256(pixels.tobytes()).hexdigest()},
    )
    chosen = {name: o[name] for name in ("strength", *JUMPS) if o[name] is not None}
    if given.mask is None:
        return partial(pipeline.edit, start, **chosen), {**asked, **chosen}
    mask = resize(given.mask, width, crop)
    asked["mask_image"] = hashlib.sha256(mask.tobytes()).hexdigest()
    return partial(pipeline.inpaint, start, mask, **chosen), {**asked, **chosen}


def _crops(target: str, revision: str | None) -> bool:
    """Return whether the model's training took the middle of its images, as it does by default."""
    from hfgen import run_folder
    from hfgen.hub.download import local_folder

    try:
        config = Path(local_folder(target, [run_folder.CONFIG], revision=revision)) / run_folder.CONFIG
        return not config.is_file() or bool(read_config_file(config).get("center_crop", True))
    except HFGenError:
        return True
