"""Whether a card is true: rendered again from the run's files, redrawn from its seeds, its snippets run."""

import difflib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hfgen import run_folder
from hfgen.cards import card
from hfgen.errors import UsageError
from hfgen.evaluation.record import weights_sha256
from hfgen.files import printable
from hfgen.modalities import image as grid
from hfgen.pipeline import HFGenPipeline
from hfgen.results.records import FOLDER, read_result

LEVELS, FRACTION = (
    8,
    0.01,
)  # pixels of a redrawn image that may be off by more, and how many: rounding of other machines
SHOWN = 5  # differing lines of a card
PATIENCE = 1800  # seconds


def check_card(folder: Path, num_redrawn: int, run_snippets: bool = True) -> Iterator[tuple[str, list[str]]]:
    """What was checked, and what was found wrong with it, one after the other.

    Args:
        num_redrawn: images of the sample grid that are drawn again.

    Raises:
        UsageError: the folder is no finished run with a card.
        LoadError: its model cannot be loaded.
    """
    if not (folder / card.CARD).is_file():
        raise UsageError(f"{folder} has no card; `hfgen card {folder}` writes one of a finished run.")
    yield "the card is what the run's files say", differing_lines(folder)
    pipeline = HFGenPipeline.from_pretrained(folder)
    yield "results are of these very weights", other_weights(folder, pipeline)
    yield f"{num_redrawn} pictures drawn again", other_pictures(folder, pipeline, num_redrawn)
    if run_snippets:
        yield "the card's snippets run, in a fresh process", failing(folder, card.name_on(folder))


def differing_lines(folder: Path) -> list[str]:
    """Lines that the card has and its files do not make, and the other way round."""
    written, rendered = (folder / card.CARD).read_text(encoding="utf-8"), card.render(folder, card.name_on(folder))
    if written == rendered:
        return []
    found = list(difflib.unified_diff(rendered.splitlines(), written.splitlines(), lineterm="", n=0))[2:]
    lines = [line for line in found if line[:1] in "+-"] or ["+another end of a line"]
    said = [f"the card has: {line[1:]}" if line[0] == "+" else f"its files say: {line[1:]}" for line in lines]
    return said[:SHOWN] + ([f"and {len(said) - SHOWN} lines more"] if len(said) > SHOWN else [])


def other_weights(folder: Path, pipeline: HFGenPipeline) -> list[str]:
    """Results that were measured of other weights, or tell another number of parameters."""
    sha256, wrong = weights_sha256(pipeline), []
    parameters = sum(p.numel() for model in pipeline.models().values() for p in model.parameters())
    for path in sorted((folder / FOLDER).glob("*.json")):
        result = read_result(path)
        if result["metric"] != "evaluation":
            continue
        if result["sampler"].get("dtype", "float32") != "float32":
            continue  # of rounded weights, which have another hash
        if result["model"]["weights_sha256"] != sha256:
            wrong.append(f"{path.name} is of weights {result['model']['weights_sha256'][:12]}, not {sha256[:12]}")
        told = result["values"].get("parameters", {}).get("value", parameters)
        if told != parameters:
            wrong.append(f"{path.name} tells {told:,.0f} parameters of {parameters:,}")
    return wrong


def other_pictures(folder: Path, pipeline: HFGenPipeline, count: int) -> list[str]:
    """Tiles of the card's sample grid that the model does not draw of their seeds."""
    environment = run_folder.read_environment(folder)
    config = card.read_facts(folder)["config"]
    step = run_folder.read_metrics(folder)[-1]["step"]
    path, total = folder / "samples" / f"step_{step:06d}.png", config["num_validation_images"]
    if not path.is_file():
        return [f"{path.name} is missing"]
    seeds = sorted({index * total // min(count, total) for index in range(min(count, total))})
    drawn = grid.draw(pipeline, seeds, **environment.get("sampled_with", {}))
    whole, wrong = np.asarray(grid.read_image(path)).astype(int), []
    columns = whole.shape[1] // drawn[0].width
    for seed, image in zip(seeds, drawn, strict=True):
        row, column = divmod(seed, columns)
        tile = whole[row * image.height :, column * image.width :][: image.height, : image.width]
        if tile.shape != np.asarray(image).shape:
            return [f"{path.name} is no grid of {total} images of {image.width}x{image.height} pixels"]
        off = np.abs(tile - np.asarray(image).astype(int)) > LEVELS
        if off.mean() > FRACTION:
            wrong.append(f"seed {seed} is drawn otherwise: {off.mean():.0%} of its pixels differ")
    return wrong


def failing(folder: Path, name: str) -> list[str]:
    """Run the card's snippets where the model's name is the folder's, in a process that imports nothing from there."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / name).parent.mkdir(exist_ok=True)  # of a repository's id
        (Path(place) / name).symlink_to(folder.resolve())
        words = [sys.executable, "-P", "-c", card.program(folder, name)]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode == 0:
        return []
    return [f"they end with {done.returncode}: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}"]


def told(checks: Iterator[tuple[str, list[str]]], say: Any) -> int:
    """Say what holds and what does not; return how many checks did not."""
    failed = 0
    for what, wrong in checks:
        say(f"{'FAILED' if wrong else 'ok'}: {what}")
        for line in wrong:
            say(f"  {printable(line)}")  # of a card that may be anyone's
        failed += bool(wrong)
    return failed
