"""Files of what is sampled: of the modality's own kinds, or a folder that is filled as items are drawn."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.errors import Interrupted, UsageError
from hfgen.files import read_json, write_text
from hfgen.modality import Modality
from hfgen.registry import modality_of

RECORD = "samples.json"  # in a folder: what its items were drawn from


@dataclass(frozen=True)
class Drawing:
    """The items that were asked for.

    Attributes:
        call: what draws them: the pipeline, or its `edit` or `inpaint` of a given image.
        seeds: of the images, in their order; `labels` one for each, or None.
        options: of that call.
        asked: what decides which item a seed gives beside the model, for the record of a folder.
    """

    pipeline: Any
    call: Any
    seeds: Sequence[int]
    labels: Sequence[int] | None
    batch_size: int
    options: Mapping[str, Any]
    asked: Mapping[str, Any]

    @property
    def modality(self) -> Modality:
        found: Modality = modality_of(self.pipeline)
        return found

    def batches(self, wanted: Callable[[int], bool] = lambda seed: True) -> Iterator[tuple[Sequence[int], list[Any]]]:
        """Sample in batches that are always the same; leave out those without a wanted item."""
        from hfgen.evaluation.progress import bars_on_stderr

        size = self.batch_size
        starts = [s for s in range(0, len(self.seeds), size) if any(map(wanted, self.seeds[s : s + size]))]
        for start in bars_on_stderr(len(starts) > 1)(f"sampling {self.modality.noun[1]}")(starts):
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            output = self.call(seeds=self.seeds[part], class_labels=labels, **self.options)
            yield self.seeds[part], list(self.modality.items(output))


def kind_of(output: str, modalities: Iterable[Modality]) -> str:
    """Return `folder`, or the kind of file that the first of the modalities which write such files has for it.

    Raises:
        UsageError: none of them writes such a file.
    """
    suffix, asked = Path(output).suffix.lower(), list(modalities)
    if suffix == "" or output.endswith(("/", os.sep)) or Path(output).is_dir():
        return "folder"
    kind = next((kind for modality in asked if (kind := modality.kind_of(output)) is not None), None)
    if kind is None:
        nouns = " or ".join(modality.noun[1] for modality in asked)
        raise UsageError(
            f"--output {output}: {suffix} is not a format in which {nouns} can be written; try "
            f"{' or '.join(modality.sample_file for modality in asked)}, or a folder."
        )
    return kind


def refuse_to_overwrite(output: Path, overwrite: bool) -> None:
    """Raise a UsageError if the output exists; a folder with a record is compared later, with the model's."""
    if overwrite:
        return
    if any(output.glob("seed_*.*")) and not (output / RECORD).is_file():
        raise UsageError(
            f"--output {output} holds samples and no {RECORD} that says what they are; nothing was sampled.\n"
            "Give another folder, or --overwrite."
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} exists; nothing was sampled. Give another name, or --overwrite.")


def write_file(drawing: Drawing, output: Path, kind: str) -> int:
    """Write all items into one file of the modality's."""
    return drawing.modality.write_items(drawing.batches(), kind, output, drawing.seeds, drawing.labels)


def write_folder(drawing: Drawing, output: Path, overwrite: bool = False) -> int:
    """Write each item as `seed_000003.png` or its like as soon as it is drawn; those that are there already stay.

    Raises:
        UsageError: the folder holds items of another model, or of other options.
        Interrupted: by Ctrl-C.
    """
    modality = drawing.modality
    _begin(drawing, output, overwrite)

    def place(seed: int) -> Path:
        return output / f"seed_{seed:06d}{modality.item_suffix}"

    def is_missing(seed: int) -> bool:
        return not place(seed).is_file() or not place(seed).stat().st_size

    try:
        for seeds, items in drawing.batches(is_missing):
            for seed, item in zip(seeds, items, strict=True):
                if is_missing(seed):
                    modality.save_item(item, place(seed))
    except KeyboardInterrupt as error:
        done = sum(not is_missing(seed) for seed in drawing.seeds)
        there = f"{done:,} of {len(drawing.seeds):,} {modality.noun[1]} are in {output}"
        raise Interrupted(f"Stopped; {there}. The same command draws the others.", signal.SIGINT) from error
    return len(drawing.seeds)


def _begin(drawing: Drawing, output: Path, overwrite: bool) -> None:
    """Write the record of a new folder, or compare that of an old one."""
    output.mkdir(parents=True, exist_ok=True)
    record = json.loads(json.dumps(_record(drawing), default=str))
    if overwrite:
        for old in output.glob("seed_*.*"):
            old.unlink()
    elif (output / RECORD).is_file():
        try:
            before = read_json(output / RECORD)
        except ValueError as error:
            raise UsageError(f"{output / RECORD} cannot be read: {error}; give another folder.") from error
        differ = _differences(before, record)
        if differ and any(output.glob("seed_*.*")):
            raise UsageError(
                f"--output {output} holds {drawing.modality.noun[1]} that were drawn otherwise; nothing was sampled.\n"
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


def write_walk(drawing: Drawing, output: Path, num_frames: int) -> int:
    """Write a latent walk past each seed's item."""
    frames = list(drawing.pipeline.interpolate(drawing.seeds, num_frames, drawing.labels, **drawing.options))
    drawing.modality.write_walk(frames, output)
    return len(frames)
