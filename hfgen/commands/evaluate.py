"""hfgen evaluate TARGET"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfgen.commands.options import (
    OwnOptionsCommand,
    loading_options,
    parse_numbers,
    refuse_dotted,
    refuse_given,
    scheduler_option,
)
from hfgen.commands.own_options import Chosen, chosen_options
from hfgen.commands.pipelines import load, refuse_steps
from hfgen.commands.targets import check_target
from hfgen.data.sources import check_name
from hfgen.errors import CheckError, HFGenError, UsageError
from hfgen.results.metrics import COSTS, LIKELIHOOD, METRICS, QUALITY
from hfgen.results.records import folder_of

if TYPE_CHECKING:
    from hfgen.evaluation.evaluate import Evaluation, Sampling
    from hfgen.results.records import Result

LIMITS = ("max_fid", "max_kid", "max_bits_per_dim", "min_precision", "min_recall", "min_coverage")
CHANGED = ("scheduler", "dtype", "variant", "revision")  # of the pipeline itself
DOTTED = ("likelihood", "scheduler")


class Words(OwnOptionsCommand):
    """Keeps the command line as it was given, for the processes that are started with it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        parsed = super().parse_args(ctx, args)
        ctx.params["words"] = words
        return parsed


@click.command(
    "evaluate",
    cls=Words,
    short_help="Measure a model by a protocol.",
    options_metavar="[OPTIONS] [--OPTION_OF_THE_MODEL VALUE] ...",
)
@click.argument("target")
@click.option("--protocol", help="A name of `hfgen list protocols`, or a file.  [default: the dataset's own]")
@click.option("--dataset_name", help="The real images.  [default: what TARGET was trained on]")
@click.option("--dataset_config_name", help="Configuration of a Hub dataset.")
@click.option("--split", help="Split of the real images.  [default: the protocol's; else test, or validation]")
@click.option("--metrics", help="Names of `hfgen list metrics`, comma-separated.  [default: all quick ones]")
@click.option(
    "--num_images", "-n", type=click.IntRange(2), help="Number of images to sample.  [default: the protocol's]"
)
@click.option(
    "--num_likelihood_images", type=click.IntRange(1), help="Number of real images whose likelihood is measured."
)
@click.option("--seed", type=click.IntRange(0), help="Image i has seed SEED + i.  [default: the protocol's]")
@click.option("--resolution", type=click.IntRange(1), help="Side to which real images are resized, as in training.")
@click.option("--center_crop/--no_center_crop", default=None, help="Crop the center of real images to resize them.")
@click.option("--extractor", help="The network of the features: `hfgen list extractors`.  [default: the protocol's]")
@click.option("--extractor_weights", type=click.Path(), help="A file or folder of its weights.")
@click.option("--num_inference_steps", help="Steps of a model that samples in many; 10,20,50 measures each.")
@scheduler_option
@click.option("--max_fid", type=float, help="Exit with 3 where FID is above.")
@click.option("--max_kid", type=float, help="Exit with 3 where KID is above.")
@click.option("--max_bits_per_dim", type=float, help="Exit with 3 where bits per dimension are above.")
@click.option("--min_precision", type=float, help="Exit with 3 where precision is below.")
@click.option("--min_recall", type=float, help="Exit with 3 where recall is below.")
@click.option("--min_coverage", type=float, help="Exit with 3 where coverage is below.")
@click.option(
    "--output_dir", type=click.Path(path_type=Path), help="The folder that gets evaluation/.  [default: TARGET itself]"
)
@click.option("--num_processes", type=click.IntRange(1), help="Processes that sample together.  [default: 1]")
@loading_options
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(target: str, words: list[str], as_json: bool, num_processes: int | None, **o: Any) -> None:
    """Measure TARGET, a run folder, a checkpoint or a repository, by a protocol; write evaluation/*.json there.

    Killed, and started again with the same command, it goes on with the images that were not sampled yet.

    Options of the model's own: those of sampling, such as --guidance_scale 3; --scheduler.KEY VALUE, a setting of its
    scheduler, for short --temperature 0.7; --likelihood.KEY VALUE, an option of the family's log_likelihood, such as
    num_importance_samples. `hfgen info TARGET` lists them. A result names only options that its metrics used.
    """
    from hfgen.processes.launcher import MODULE, Wanted, launch

    refuse_dotted(o["dotted"], DOTTED)
    check_target(target)
    if o["dataset_name"]:
        check_name(o["dataset_name"])
    limits = finite({name: o[name] for name in LIMITS if o[name] is not None})
    wanted = Wanted(num_processes)
    if not wanted.here():
        return launch(["evaluate", *words], wanted, MODULE)
    from hfgen.evaluation.evaluate import Asked, plan_evaluation, prepare_evaluation
    from hfgen.evaluation.parts import part_of, parts
    from hfgen.evaluation.progress import bars_on_stderr
    from hfgen.processes.world import join_processes

    is_main = join_processes().is_main_process
    bars, chosen = bars_on_stderr(is_main), chosen_options(target, o)
    pipeline = load(target, o, chosen.scheduler, any_pipeline=True)
    samplings = list(samplings_of(pipeline, o, chosen))
    plan = plan_evaluation(target, pipeline, Asked(**{f.name: o[f.name] for f in fields(Asked)}), bars)
    refuse_unmeasured(plan.metrics, limits, o["dotted"].get("likelihood", {}))
    ways = parts(pipeline, plan.metrics, samplings)
    evaluation = prepare_evaluation(plan, pipeline, bars)
    folder = o["output_dir"] or folder_of(target)
    found = [measure(target, folder, pipeline, part_of(evaluation, names), way, bars) for way, names in ways]
    results = [result for result in found if result is not None]
    if is_main:
        as_text = json.dumps([result.to_dict() for result in results], indent=2) if as_json else None
        click.echo(as_text or "\n\n".join(map(table, results)))
        require(results, limits)
    return None


def samplings_of(pipeline: Any, o: Mapping[str, Any], chosen: Chosen) -> "Iterator[Sampling]":
    """Yield a way to sample, and to measure a likelihood, for each number of steps."""
    from hfgen.evaluation.evaluate import Sampling
    from hfgen.evaluation.likelihoods import likelihood_options

    changed = {name: o[name] for name in CHANGED if o[name] is not None}
    changed |= {f"scheduler.{name}": value for name, value in chosen.scheduler.items()}
    likelihood = likelihood_options(pipeline, o["dotted"].get("likelihood", {}))
    steps = o["num_inference_steps"]
    for count in [] if steps is None else parse_numbers(steps):
        refuse_steps(pipeline, count)
        yield Sampling({"num_inference_steps": count, **chosen.call}, likelihood, changed)
    if steps is None:
        yield Sampling(chosen.call, likelihood, changed)


def measure(
    target: str, folder: Path, pipeline: Any, evaluation: "Evaluation", sampling: "Sampling", bars: Any
) -> "Result | None":
    """Measure and write a result, in the main process; say where it was written."""
    from hfgen.evaluation.evaluate import evaluate, name_of, save

    try:
        measured = evaluate(pipeline, evaluation, name_of(target), folder, sampling, bars)
        if measured is None:
            return None
        result, edited = save(folder, *measured)
    except HFGenError:
        raise
    except OSError as error:
        raise HFGenError(f"{folder} cannot be written: {error}. Choose another place: --output_dir.") from error
    if edited:
        click.echo(f"the card in {folder} was edited; `hfgen card` renders it anew", err=True)
    click.echo(f"written to {result.path}", err=True)
    return result


def finite(limits: Mapping[str, float]) -> Mapping[str, float]:
    """Return the limits; raise a UsageError if one is infinite or NaN."""
    for limit, bound in limits.items():
        if not math.isfinite(bound):
            raise UsageError(f"--{limit} is {bound}; it must be a finite number.")
    return limits


def refuse_unmeasured(metrics: Sequence[str], limits: Iterable[str], likelihood: Iterable[str]) -> None:
    """Raise a UsageError if a limit, or an option of the likelihood, is given for a metric that is not measured."""
    for limit in limits:
        name = limit.partition("_")[2]
        if name not in metrics:
            raise UsageError(f"--{limit} limits {name}, which is not measured; --metrics must name it.")
    drawn = {*QUALITY, *COSTS} & set(metrics)
    if not drawn:
        refuse_given(["num_images", "seed"], f"on {', '.join(metrics)}: no image is sampled")
    if not drawn and "reconstruction_fid" not in metrics:
        refuse_given(["extractor", "extractor_weights"], f"on {', '.join(metrics)}: no features are compared")
    if not set(LIKELIHOOD) & set(metrics):
        refuse_given(["num_likelihood_images"], "where no likelihood is measured")
    for option in likelihood if not set(LIKELIHOOD) & set(metrics) else ():
        raise UsageError(
            f"--likelihood.{option}: no likelihood is measured; --metrics must name one of {', '.join(LIKELIHOOD)}."
        )


def require(results: "Sequence[Result]", limits: Mapping[str, float]) -> None:
    """Raise a CheckError where a limit is not kept."""
    for limit, bound in limits.items():
        side, _, name = limit.partition("_")
        for result in (result for result in results if name in result.values):
            value = result.values[name]["value"]
            if value > bound if side == "max" else value < bound:
                raise CheckError(f"{METRICS[name].title} of {result.name} is {value:.4g}; --{limit} is {bound:g}.")


def table(result: "Result") -> str:
    """The values of a result, each beside its floor, and the rules under which they were found."""
    from hfgen.results.words import kind_of, marked, shown, table as columns, under

    rows = [
        {
            "metric": METRICS[name].title,
            "value": marked(name, value, result.likelihood),
            "floor": f"real {shown(result.floor[name])}" if name in result.floor else "",
        }
        for name, value in result.values.items()
    ]
    warning = f"\nwarning: {result.warning}" if result.warning else ""
    kind = f"\nlikelihood: {kind_of(result.likelihood, result.noun)}" if set(LIKELIHOOD) & set(result.values) else ""
    return f"{result.name}: {under(result)}\n{columns(rows)}{kind}{warning}"
