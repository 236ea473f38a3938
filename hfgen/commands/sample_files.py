"""Files of sampled images: a grid, a folder that is filled as they are drawn, an array, an animation."""

import contextlib
import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.errors import Interrupted, UsageError
from hfgen.files import read_json, write_text

ANIMATIONS = (".webp", ".gif", ".apng")
RECORD = "samples.json"  # in a folder: what its images were drawn from


@dataclass(frozen=True)
class Drawing:
    """The images that were asked for.

    Attributes:
        call: what draws them: the pipeline, or its `edit` or `inpaint` of a given image.
        seeds: of the images, in their order; `labels` one for each, or None.
        options: of that call.
        asked: what decides which image a seed gives beside the model, for the record of a folder.
    """

    pipeline: Any
    call: Any
    seeds: Sequence[int]
    labels: Sequence[int] | None
    batch_size: int
    options: Mapping[str, Any]
    asked: Mapping[str, Any]

    def batches(self, wanted: Callable[[int], bool] = lambda seed: True) -> Iterator[tuple[Sequence[int], list[Any]]]:
        """Sample in batches that are always the same; leave out those without a wanted image."""
        from hfgen.evaluation.progress import bars_on_stderr

        size = self.batch_size
        starts = [s for s in range(0, len(self.seeds), size) if any(map(wanted, self.seeds[s : s + size]))]
        for start in bars_on_stderr(len(starts) > 1)("sampling images")(starts):
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            images = self.call(seeds=self.seeds[part], class_labels=labels, **self.options).images
            yield self.seeds[part], images


def kind_of(output: str) -> str:
    """Return `walk`, `array`, `folder` or `grid`, by the name's ending, in capitals or not.

    >>> kind_of("walk.GIF"), kind_of("out.npz"), kind_of("digits"), kind_of("v1.5/"), kind_of("grid.jpg")
    ('walk', 'array', 'folder', 'folder', 'grid')
    """
    from PIL import Image

    suffix = Path(output).suffix.lower()
    if suffix == "" or output.endswith(("/", os.sep)) or Path(output).is_dir():
        return "folder"
    if suffix in ANIMATIONS or suffix == ".npz":
        return "array" if suffix == ".npz" else "walk"
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise UsageError(f"--output {output}: {suffix} is not an image format that can be written; try .png.")
    return "grid"


def refuse_to_overwrite(output: Path, overwrite: bool) -> None:
    """Raise a UsageError if the output exists; a folder with a record is compared later, with the model's."""
    if overwrite:
        return
    if any(output.glob("seed_*.png")) and not (output / RECORD).is_file():
        raise UsageError(
            f"--output {output} holds images and no {RECORD} that says what they are; nothing was sampled.\n"
            "Give another folder, or --overwrite."
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} exists; nothing was sampled. Give another name, or --overwrite.")


def write_grid(drawing: Drawing, output: Path) -> int:
    """Write all images as one picture."""
    from hfgen.modalities import image as grid

    images = [image for _, batch in drawing.batches() for image in batch]
    grid.save_image(grid.image_grid(images), output)
    return len(images)


def write_folder(drawing: Drawing, output: Path, overwrite: bool = False) -> int:
    """Write each image as `seed_000003.png` as soon as it is drawn; images that are there already stay.

    Raises:
        UsageError: the folder holds images of another model, or of other options.
        Interrupted: by Ctrl-C.
    """
    from hfgen.modalities import image as grid

    _begin(drawing, output, overwrite)

    def place(seed: int) -> Path:
        return output / f"seed_{seed:06d}.png"

    def is_missing(seed: int) -> bool:
        return not place(seed).is_file() or not place(seed).stat().st_size

    try:
        for seeds, images in drawing.batches(is_missing):
            for seed, image in zip(seeds, images, strict=True):
                if is_missing(seed):
                    grid.save_image(image, place(seed))
    except KeyboardInterrupt as error:
        done = sum(not is_missing(seed) for seed in drawing.seeds)
        there = f"{done:,} of {len(drawing.seeds):,} images are in {output}"
        raise Interrupted(f"Stopped; {there}. The same command draws the others.", signal.SIGINT) from error
    return len(drawing.seeds)


def _begin(drawing: Drawing, output: Path, overwrite: bool) -> None:
    """Write the record of a new folder, or compare that of an old one."""
    output.mkdir(parents=True, exist_ok=True)
    record = json.loads(json.dumps(_record(drawing), default=str))
    if overwrite:
        for old in output.glob("seed_*.png"):
            old.unlink()
    elif (output / RECORD).is_file():
        try:
            before = read_json(output / RECORD)
        except ValueError as error:
            raise UsageError(f"{output / RECORD} cannot be read: {error}; give another folder.") from error
        differ = _differences(before, record)
        if differ and any(output.glob("seed_*.png")):
            raise UsageError(
                f"--output {output} holds images that were drawn otherwise; nothing was sampled.\n"
                f"It differs in: {', '.join(differ)}.\nGive another folder, or --overwrite."
            )
    write_text(output / RECORD, json.dumps(record, indent=2) + "\n")


def _record(drawing: Drawing) -> dict[str, Any]:
    from hfgen.components import weights_sha256

    scheduler = getattr(drawing.pipeline, "scheduler", None)
    config = {} if scheduler is None else dict(scheduler.config)
    return {
        "pipeline": type(drawing.pipeline).__name__,
        "weights_sha256": weights_sha256(drawing.pipeline.models()),
        "dtype": str(drawing.pipeline.dtype),
        "scheduler": {
            "class_name": type(scheduler).__name__,
            **{name: value for name, value in config.items() if not name.startswith("_")},
        },
        "options": dict(drawing.options),
        **drawing.asked,
    }


def _differences(before: Any, now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two records, as words.

    >>> _differences({"options": {"eta": 0}, "dtype": "float"}, {"options": {"eta": 1}, "dtype": "float"})
    ['eta was 0, now 1']
    """
    before, found = before if isinstance(before, dict) else {}, []
    for name in sorted({*before, *now}):
        then, here = before.get(name), now.get(name)
        if isinstance(then, dict) and isinstance(here, dict):
            found += _differences(then, here)
        elif then != here:
            found.append("weights" if name == "weights_sha256" else f"{name} was {then}, now {here}")
    return found


def write_array(drawing: Drawing, output: Path) -> int:
    """Write `images`, uint8, (N, H, W) or (N, H, W, C), `seeds` (N,), and `labels` (N,) if they were given.

    Only one batch is in memory at a time.
    """
    import numpy as np

    others = {"seeds": drawing.seeds} if drawing.labels is None else {"labels": drawing.labels, "seeds": drawing.seeds}
    with _under_another_name(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            for number, (_, images) in enumerate(drawing.batches()):
                pixels = np.stack([np.asarray(image) for image in images])
                if number == 0:
                    shape = (len(drawing.seeds), *pixels.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(pixels.tobytes())
        for name, values in others.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(values))
    return len(drawing.seeds)


@contextlib.contextmanager
def _under_another_name(output: Path) -> Iterator[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}")
    try:
        yield temporary
        os.replace(temporary, output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_walk(drawing: Drawing, output: Path, num_frames: int) -> int:
    """Write an endless animation at 20 frames per second; small images are enlarged so that they can be seen."""
    from PIL import Image

    from hfgen.modalities import image as grid

    frames = list(drawing.pipeline.interpolate(drawing.seeds, num_frames, drawing.labels, **drawing.options))
    factor = max(1, 224 // frames[0].width)
    frames = [f.resize((f.width * factor, f.height * factor), Image.Resampling.NEAREST) for f in frames]
    grid.save_image(frames[0], output, save_all=True, append_images=frames[1:], duration=50, loop=0, quality=80)
    return len(frames)
