"""hfgen train MODEL|RECIPE"""

import json
import os
from pathlib import Path
from typing import Any

import click

from hfgen import run_folder
from hfgen.arguments import RunConfig, read_config_file, resolve
from hfgen.commands.options import DottedCommand, dataclass_options
from hfgen.errors import UsageError, did_you_mean
from hfgen.recipes import list_recipes
from hfgen.registry import get_family, list_families


@click.command("train", cls=DottedCommand, options_metavar="[OPTIONS] [--COMPONENT.KEY VALUE] ...")
@click.argument("model", required=False, metavar="[MODEL|RECIPE]")
@click.option("--model", "model_option", help="The same as the argument.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of settings; the command line wins.")
@click.option("--dry_run", is_flag=True, help="Resolve, build, take two steps, print the config; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@dataclass_options
def command(
    model: str | None,
    model_option: str | None,
    config: Path | None,
    dry_run: bool,
    as_json: bool,
    dotted: dict[str, dict[str, Any]],
    **given: Any,
) -> None:
    """Train a model on images and leave a run folder: model, card, samples, metrics, checkpoints.

    MODEL is a family (`hfgen list models`) or a recipe (`hfgen list recipes`). Options of the model's components are
    written --COMPONENT.KEY VALUE, for example --generator.base_channels 32; `hfgen info MODEL` lists them, and which
    of the defaults below are others for that model.
    """
    if model and model_option:
        raise UsageError("Give the model once: as the argument or as --model.")
    resolved, pipeline_class = resolve_run(model or model_option, config, given, dotted)
    from hfgen import run

    if dry_run:
        click.echo(run.dry_run(resolved, pipeline_class, _say), nl=False)
        return
    result = run.train(resolved, pipeline_class, _folder(resolved), _say)
    if _is_main_process():
        click.echo(json.dumps(result) if as_json else result["output_dir"])


def resolve_run(
    target: str | None, config: Path | None, given: dict[str, Any], dotted: dict[str, dict[str, Any]]
) -> tuple[RunConfig, Any]:
    """Recipe, config file and command line -> (the resolved run, its pipeline class)."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION")
    layers: list[tuple[str, dict[str, Any]]] = [
        ("accelerate launch", {"mixed_precision": launched} if launched else {})
    ]
    name = target
    if target is not None and not any(family.name == target for family in list_families()):
        recipe = _recipe(target)
        layers.append((str(recipe), read_config_file(recipe)))
        name = None
    if config is not None:
        layers.append((str(config), read_config_file(config)))
    layers.append(("command line", {k: v for k, v in {**given, **dotted}.items() if v is not None}))
    name = name or next((layer["model"] for _, layer in layers if "model" in layer), None)
    if name is None:
        raise UsageError("Which model? `hfgen train MODEL ...`; `hfgen list models` shows them.")
    pipeline_class = get_family(name).load()
    return resolve(layers, name, pipeline_class), pipeline_class


def _recipe(target: str) -> Path:
    recipes = list_recipes()
    if target in recipes:
        return recipes[target]
    if Path(target).suffix in (".yaml", ".yml"):
        return Path(target)
    known = [*recipes, *(family.name for family in list_families())]
    raise UsageError(f"There is no model or recipe {target!r}.{did_you_mean(target, known)}")


def _folder(resolved: RunConfig) -> Path:
    """The main process chooses; the others are told, since a folder that it has made is no longer free."""
    from accelerate.utils import broadcast_object_list

    from hfgen.launch import join_processes

    processes, a = join_processes(), resolved.arguments
    dataset = a.dataset_name or a.train_data_dir or "data"
    chosen: list[Any] = [None]
    if processes.is_main_process:
        try:
            chosen = [run_folder.choose(resolved.model, dataset, a.output_dir, a.resume_from_checkpoint)]
        except UsageError as error:
            chosen = [error]
    if processes.num_processes > 1:
        broadcast_object_list(chosen)
    if isinstance(chosen[0], UsageError):
        raise chosen[0]
    return chosen[0]


def _say(line: str) -> None:
    if _is_main_process():
        click.echo(line, err=True)


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
