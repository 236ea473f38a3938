"""Check a card: render it again from the run's files, sample again what it shows, run its snippets."""

import difflib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hfgen import run_folder
from hfgen.cards import card
from hfgen.cards.parts import unmarked
from hfgen.components import weights_sha256
from hfgen.errors import UsageError, counted
from hfgen.evaluation.drawing import draw
from hfgen.files import printable
from hfgen.pipeline import HFGenPipeline
from hfgen.registry import modality_of
from hfgen.results.records import read_results

SHOWN = 5  # differing lines of a card
PATIENCE = 1800  # seconds


def check_card(folder: Path, num_redrawn: int, run_snippets: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Yield each check in words, with a list of what is wrong: empty where it holds.

    Args:
        num_redrawn: items of the samples that are sampled again.

    Raises:
        UsageError: the folder does not hold a finished run with a card.
        LoadError: its model cannot be loaded.
    """
    if not (folder / card.CARD).is_file():
        raise UsageError(f"{folder} has no card; `hfgen card {folder}` writes one of a finished run.")
    yield "the card says what the run's files say", differing_lines(folder)
    pipeline = HFGenPipeline.from_pretrained(folder)
    yield "results are of these very weights", other_weights(folder, pipeline)
    seeds = redrawn(card.read_facts(folder)["config"]["num_validation_images"], num_redrawn)
    yield f"{counted(len(seeds), modality_of(pipeline).noun[0])} sampled again", other_samples(folder, pipeline, seeds)
    if run_snippets:
        yield "the card's snippets run, in a fresh process", failing(folder, card.name_on(folder))


def differing_lines(folder: Path) -> list[str]:
    """Lines in which the card differs from what its files make."""
    written = unmarked((folder / card.CARD).read_text(encoding="utf-8"))
    rendered = card.render(folder, card.name_on(folder))
    if written == rendered:
        return []
    found = list(difflib.unified_diff(rendered.splitlines(), written.splitlines(), lineterm="", n=0))[2:]
    lines = [line for line in found if line[:1] in "+-"] or ["+another end of a line"]
    said = [f"the card has: {line[1:]}" if line[0] == "+" else f"its files say: {line[1:]}" for line in lines]
    return said[:SHOWN] + ([f"and {len(said) - SHOWN} lines more"] if len(said) > SHOWN else [])


def other_weights(folder: Path, pipeline: HFGenPipeline) -> list[str]:
    """Results that were measured of other weights, or with another number of parameters."""
    sha256, wrong = weights_sha256(pipeline.models()), []
    parameters = sum(p.numel() for model in pipeline.models().values() for p in model.parameters())
    for result in read_results(folder):
        if result.sampler.get("dtype", "float32") != "float32":
            continue  # of rounded weights, which have another hash
        measured, name = result.model["weights_sha256"], result.path.name
        if measured != sha256:
            wrong.append(f"{name} is of weights {measured[:12]}, not {sha256[:12]}")
        recorded = result.values.get("parameters", {}).get("value", parameters)
        if recorded != parameters:
            wrong.append(f"{name} says {recorded:,.0f} parameters; the model has {parameters:,}")
    return wrong


def redrawn(total: int, count: int) -> list[int]:
    """The seeds of a grid's items that are sampled again: so many, or all, evenly spaced.

    >>> redrawn(64, 4), redrawn(2, 8)
    ([0, 16, 32, 48], [0, 1])
    """
    return sorted({index * total // min(count, total) for index in range(min(count, total))})


def other_samples(folder: Path, pipeline: HFGenPipeline, seeds: Sequence[int]) -> list[str]:
    """Samples of the card that the model does not sample from their seeds."""
    environment = run_folder.read_environment(folder)
    config = card.read_facts(folder)["config"]
    step = run_folder.read_metrics(folder)[-1]["step"]
    modality, stem = modality_of(pipeline), folder / "samples" / f"step_{step:06d}"
    if not modality.previews(stem):
        return [f"{stem.name} is missing"]
    drawn = draw(pipeline, seeds, **environment.get("sampled_with", {}))
    return list(modality.different(drawn, seeds, config["num_validation_images"], stem))


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


def report(checks: Iterator[tuple[str, list[str]]], say: Callable[[str], Any]) -> int:
    """Say which checks hold and which fail; return the number of failed ones."""
    failed = 0
    for what, wrong in checks:
        say(f"{'FAILED' if wrong else 'ok'}: {what}")
        for line in wrong:
            say(f"  {printable(line)}")  # of a card that may be anyone's
        failed += bool(wrong)
    return failed
