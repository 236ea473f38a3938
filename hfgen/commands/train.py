"""The command `hfgen train MODEL|RECIPE`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from hfgen import run_folder
from hfgen.commands.options import DottedCommand, dataclass_options, refuse_beside
from hfgen.commands.recipes import is_family, list_recipes, own_data_options, resolve_run
from hfgen.commands.script_options import script_options, take_out, translate
from hfgen.errors import UsageError
from hfgen.files import read_config_file
from hfgen.settings.ignored import refuse_ignored
from hfgen.settings.options import trainable
from hfgen.settings.resolve import DATA, RunConfig
from hfgen.tokens import without_secrets

GROUPS = {  # the first option of each group of the help
    "dataset_name": "Data",
    "pretrained_model_name_or_path": "Run",
    "learning_rate": "Optimizers",
    "mixed_precision": "Precision and speed",
    "use_ema": "Averages of the weights",
    "logging_steps": "Metrics, validation and checkpoints",
    "license": "Publishing",
}


class TrainCommand(DottedCommand):
    """A command that also takes options of scripts that recipes stand in for, and of `accelerate launch` after `--`.

    They arrive as the parameters `script` and `beyond`; `words` is the command line without the latter.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in groups, each begun by one of `GROUPS`."""
        title, rows = "Command", list[tuple[str, str]]()
        for parameter in [*self.get_params(ctx), None]:
            begins = "" if parameter is None else GROUPS.get(str(parameter.name), "")
            if rows and (parameter is None or begins):
                with formatter.section(title):
                    formatter.write_dl(rows)
                rows = []
            title = begins or title
            record = None if parameter is None else parameter.get_help_record(ctx)
            rows += [] if record is None else [record]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        words, beyond = args[:end], args[end + 1 :]
        words = _with_block(words)
        known = {option.lstrip("-") for p in self.get_params(ctx) for option in [*p.opts, *p.secondary_opts]}
        rest, script = take_out(words, known)
        try:
            parsed = super().parse_args(ctx, rest)
        except click.UsageError as error:
            if "unexpected extra argument" not in error.message:
                raise
            said = f"{error.message}. The data are named by an option: --dataset_name NAME, such as mnist-mini."
            raise click.UsageError(said, ctx) from None
        ctx.params |= {"words": words, "beyond": beyond, "script": script}
        return parsed


def _with_block(words: list[str]) -> list[str]:
    """Write options of the data that only one modality has as those of the block `data`: `--data.block_size`."""
    own = own_data_options()
    names = [word.removeprefix("--").partition("=")[0].replace("-", "_") for word in words]
    pairs = zip(words, names, strict=True)
    return [f"--{DATA}.{word[2:]}" if word.startswith("--") and name in own else word for word, name in pairs]


@click.command(
    "train",
    cls=TrainCommand,
    short_help="Train a model; leave a run folder.",
    options_metavar="[OPTIONS] [--COMPONENT.KEY VALUE] ... [-- OPTIONS]",
)
@click.argument("model", required=False, metavar="[MODEL|RECIPE]")
@click.option("--model", "model_option", help="The same as the argument.")
@click.option("--stand_in", hidden=True, help="Recipe to use if no model is named.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="YAML file of settings; options of the command line override it."
)
@click.option(
    "--num_processes", type=click.IntRange(1), help="Number of processes to start, each on a GPU if there are any."
)
@click.option(
    "--accelerate_config", help="Setup of the processes: single, multi_gpu, fsdp2, or a config file of Accelerate."
)
@click.option("--dry_run", is_flag=True, help="Resolve, build, take two steps, print the config; write nothing.")
@click.option("--print_config", is_flag=True, help="Resolve and print the settings; build nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@dataclass_options
def command(
    model: str | None,
    model_option: str | None,
    stand_in: str | None,
    config: Path | None,
    num_processes: int | None,
    accelerate_config: str | None,
    dry_run: bool,
    print_config: bool,
    as_json: bool,
    dotted: dict[str, dict[str, Any]],
    script: dict[str, str],
    words: list[str],
    beyond: list[str],
    **given: Any,
) -> None:
    """Train a model on images and leave a run folder: model, card, samples, metrics, checkpoints.

    MODEL is a family (`hfgen list models`) or a recipe (`hfgen list recipes`). Options of the model's components are
    written --COMPONENT.KEY VALUE, for example --generator.base_channels 32. `hfgen info MODEL` lists them, and the
    defaults that differ from those below for that model. --COMPONENT.from_config takes those of a saved component.
    --optimizer.COMPONENT.KEY VALUE gives a component an optimizer of its own: class_name, learning_rate, betas, eps,
    alpha, momentum, weight_decay, no_decay, lr_scheduler, lr_warmup_steps, lr_step_rules.

    With --num_processes on GPUs, options after a bare -- go to `accelerate launch`. On several machines, run
    hfgen/train.py on each of them with `accelerate launch` or `torchrun`; it takes the options below.
    """
    if model and model_option:
        raise UsageError("Give the model once: as the argument or as --model.")
    target = model or model_option or (stand_in if _names_no_model(config) else None)
    refuse_beside("print_config", ["dry_run", "as_json"])
    refuse_beside("dry_run", ["as_json"])
    of_script = _script_options(target)
    settings, given, notes = translate(of_script, script, given)
    from hfgen.processes.launcher import Wanted, launch

    wanted = Wanted(num_processes, accelerate_config, beyond)
    if not print_config and not wanted.here():
        return launch(words, wanted)
    resolved, pipeline_class = resolve_run(target, config, given, dotted, settings, with_data=not print_config)
    if not of_script:  # whose own options may have no effect here, as its notes say
        named = [name for name, value in given.items() if value is not None]
        refuse_ignored(named, resolved.arguments, trainable(pipeline_class))
    if print_config:
        return click.echo(yaml.safe_dump(resolved.to_dict(), sort_keys=False), nl=False)
    from hfgen.training import dry_run as rehearsal, run

    _join(num_processes)
    for note in notes:
        _say(note)
    if dry_run:
        text = rehearsal.dry_run(resolved, pipeline_class, _folder(resolved), _say).rstrip("\n")
    else:
        result = run.train(resolved, pipeline_class, _folder(resolved), _say)
        text = json.dumps(result) if as_json else result["output_dir"]
    if _is_main_process():
        click.echo(text)
    return None


def _names_no_model(config: Path | None) -> bool:
    return config is None or "model" not in read_config_file(config)


def _script_options(target: str | None) -> Mapping[str, Any]:
    recipe = None if target is None or is_family(target) else list_recipes().get(target)
    return {} if recipe is None else script_options(recipe)


def _join(asked: int | None) -> None:
    from hfgen.processes.world import join_processes

    came = join_processes().num_processes
    if asked not in (None, came):
        raise UsageError(
            f"--num_processes {asked}, but the launcher started {came}; give the number to only one of them."
        )


def _folder(resolved: RunConfig) -> Path:
    """Choose the run folder in the main process and send it to the others, for which it is no longer free."""
    from accelerate.utils import broadcast_object_list

    from hfgen.processes.world import join_processes

    processes, a = join_processes(), resolved.arguments
    dataset = a.dataset_name or a.train_data_dir or "data"
    chosen: list[Any] = [None]
    if processes.is_main_process:
        try:
            chosen = [
                run_folder.choose(
                    resolved.model, dataset, a.output_dir, a.resume_from_checkpoint, a.overwrite_output_dir
                )
            ]
        except UsageError as error:
            chosen = [error]
    if processes.num_processes > 1:
        broadcast_object_list(chosen)
    if isinstance(chosen[0], UsageError):
        raise chosen[0]
    return chosen[0]


def _say(line: str) -> None:
    if _is_main_process():
        click.echo(without_secrets(line), err=True)


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
