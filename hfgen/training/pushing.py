"""Push a run to the Hub: at its end, or at steps on the way."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hfgen import __version__, run_folder
from hfgen.cards import card
from hfgen.errors import HFGenError, UsageError, first_line
from hfgen.hub.access import check_access, require_token
from hfgen.hub.contents import KEPT_HERE, put_together
from hfgen.hub.publish import check_place, publish
from hfgen.hub.upload import Place
from hfgen.pipeline import HFGenPipeline
from hfgen.settings.arguments import TrainingArguments
from hfgen.training.plots import plot_run
from hfgen.training.trainer import Trainer


def push_on_the_way(
    trainer: Trainer, folder: Path, say: Callable[[str], Any], step: int, line: Mapping[str, Any] | None
) -> None:
    """Push the model of a step with a sample grid, if asked to; the training goes on if that fails."""
    a, every = trainer.arguments, trainer.validation_steps
    if not a.push_to_hub or a.hub_strategy == "end" or not every or step % every:
        return
    if step == trainer.last_step:
        return  # it is pushed with the finished run
    with trainer.networks.averaged() as pipeline:
        if trainer.accelerator.is_main_process:
            try:
                say(f"step {step} pushed to {push_step(folder, pipeline, trainer.arguments, step)}")
            except (HFGenError, OSError) as error:
                say(f"step {step} was not pushed; the training goes on: {first_line(error)}")
    trainer.accelerator.wait_for_everyone()


def require_place(arguments: TrainingArguments, folder: Path, say: Callable[[str], Any]) -> None:
    """Raise a UsageError before the training if its push must fail: by its token, or its repository's name."""
    if not arguments.push_to_hub:
        return
    token = require_token(
        arguments.hub_token, "--push_to_hub needs a token: `hf auth login`, or the variable HF_TOKEN."
    )
    place = Place(arguments.hub_model_id or folder.resolve().name)
    try:
        check_place(place)
    except UsageError as error:
        raise UsageError(f"--hub_model_id: {error}") from error
    check_access(place, token, say)


def push(folder: Path, arguments: TrainingArguments) -> str:
    """Push a run as its training's arguments say; return the address. Raises what `publish` raises."""
    name = arguments.hub_model_id or folder.resolve().name
    place = Place(name, arguments.hub_private_repo or None, commit_message=f"Trained with hfgen {__version__}")
    return publish(folder, place, token=arguments.hub_token).commit_url


def push_step(folder: Path, pipeline: HFGenPipeline, arguments: TrainingArguments, step: int) -> str:
    """Push a run as it is after a step, with the model of that step, which its folder does not hold.

    Returns:
        the address. Raises what `publish` raises.
    """
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary) / folder.resolve().name
        with put_together():
            shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns(*KEPT_HERE, ".*"))
            pipeline.save_pretrained(fresh)
        plot_run(run_folder.read_metrics(fresh), fresh / "plots")
        card.write_card(fresh)
        name = arguments.hub_model_id or folder.resolve().name
        place = Place(
            name, arguments.hub_private_repo or None, commit_message=f"Step {step}, trained with hfgen {__version__}"
        )
        return publish(fresh, place, token=arguments.hub_token).commit_url
