"""hfgen evaluate TARGET"""

import dataclasses
import functools
import json
import math
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfgen.commands.options import CALL_OPTIONS, DottedCommand, parse_numbers
from hfgen.commands.pipelines import load, set_prior, swap_scheduler
from hfgen.data.builtin import BUILT_IN_FOLDERS
from hfgen.errors import CheckError, HFGenError, UsageError
from hfgen.results.metrics import METRICS, chosen

if TYPE_CHECKING:
    from hfgen.data.images import Images
    from hfgen.evaluation.measure import Bars
    from hfgen.results.protocol import Protocol

SIZE = ("resolution", "center_crop")
LIMITS = ("max_fid", "max_kid", "max_bits_per_dim", "min_precision", "min_recall", "min_coverage")


# Beside the options of the call, told in file names.
CHANGED = ("scheduler", "temperature", "truncation", "dtype", "variant", "revision")
RULES = ("dataset_name", "dataset_config_name", "split", "metrics", "num_images", "num_likelihood_images", "seed")
REPEATED = (*RULES, *SIZE, "extractor", *CALL_OPTIONS, *CHANGED)


class Words(DottedCommand):
    """Keeps the command line as it was given, for the processes that are started with it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        parsed = super().parse_args(ctx, args)
        ctx.params["words"] = words
        return parsed


@click.command("evaluate", cls=Words)
@click.argument("target")
@click.option("--protocol", help="By what rules: `hfgen list protocols`, or a file.  [default: the dataset's own]")
@click.option("--dataset_name", help="The real images.  [default: what TARGET was trained on]")
@click.option("--dataset_config_name", help="Configuration of a Hub dataset.")
@click.option("--split", help="Split of the real images.  [default: the protocol's; else test, or validation]")
@click.option("--metrics", help="Which, comma-separated: `hfgen list metrics`.  [default: all that are soon measured]")
@click.option(
    "--num_images", "-n", type=click.IntRange(2), help="How many images are drawn.  [default: the protocol's]"
)
@click.option("--num_likelihood_images", type=click.IntRange(1), help="Real images whose likelihood is measured.")
@click.option("--seed", type=click.IntRange(0), help="Image i has seed SEED + i.  [default: the protocol's]")
@click.option("--resolution", type=click.IntRange(1), help="To what side real images are brought, as in training.")
@click.option("--center_crop/--no_center_crop", default=None, help="Whether their center is cropped for that.")
@click.option("--extractor", help="In whose features: `hfgen list extractors`.  [default: the protocol's]")
@click.option("--extractor_weights", type=click.Path(), help="A file or folder of its weights.")
@click.option("--num_inference_steps", help="Steps of a model that samples in many; 10,20,50 measures each.")
@click.option("--scheduler", help="Another of diffusers' schedulers: euler, unipc ...")
@click.option("--eta", type=click.FloatRange(0, 1), help="How random each step is: 0 deterministic, 1 ancestral.")
@click.option("--guidance_scale", type=float, help="Of classifier-free guidance.")
@click.option("--timestep_spacing", help="Which steps are taken: leading, trailing, linspace, quadratic.")
@click.option("--clip_sample", help="Whether predicted images are cut off in each step: none, x0, x0_and_epsilon.")
@click.option("--temperature", type=click.FloatRange(0), help="Of the prior; another temperature is another model.")
@click.option("--truncation", type=click.FloatRange(0, min_open=True), help="Draw latents within so many deviations.")
@click.option("--max_fid", type=float, help="Exit with 3 where FID is above.")
@click.option("--max_kid", type=float, help="Exit with 3 where KID is above.")
@click.option("--max_bits_per_dim", type=float, help="Exit with 3 where bits per dimension are above.")
@click.option("--min_precision", type=float, help="Exit with 3 where precision is below.")
@click.option("--min_recall", type=float, help="Exit with 3 where recall is below.")
@click.option("--min_coverage", type=float, help="Exit with 3 where coverage is below.")
@click.option(
    "--output_dir", type=click.Path(path_type=Path), help="Where evaluation/ lies.  [default: TARGET itself]"
)
@click.option("--num_processes", type=click.IntRange(1), help="Processes that draw together.  [default: 1]")
@click.option("--device", help="cpu, cuda ... (default: an accelerator where there is one).")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Precision of the weights.")
@click.option("--variant", help="Variant of the weights.")
@click.option("--revision", help="Branch, tag or commit of a repository.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(target: str, words: list[str], as_json: bool, num_processes: int | None, **o: Any) -> None:
    """Measure TARGET, a run folder, a checkpoint or a repository, by a protocol; write evaluation/*.json there.

    Killed, and started again with the same command, it goes on with the images that were not drawn yet.
    """
    from hfgen.processes.launcher import MODULE, Wanted, launch

    wanted = Wanted(num_processes)
    if not wanted.here():
        return launch(["evaluate", *words], wanted, MODULE)
    from hfgen.processes.world import join_processes

    is_main = join_processes().is_main_process
    task = Task(target, o, load(target, o, any_pipeline=True), _bars(is_main), is_main)
    if o["scheduler"]:
        swap_scheduler(task.pipeline, o["scheduler"])
    set_prior(task.pipeline, {name: o[name] for name in ("temperature", "truncation") if o[name] is not None})
    task.likelihood = likelihood_of(task.pipeline, o.pop("dotted"))
    task.prepare()
    results = [task.measure(steps) for steps in _steps(o["num_inference_steps"])]
    if is_main:
        click.echo(json.dumps(results, indent=2) if as_json else "\n\n".join(map(table, results)))
        require(results, {name: o[name] for name in LIMITS if o[name] is not None})
    return None


def _steps(text: str | None) -> Sequence[int | None]:
    return [None] if text is None else parse_numbers(text)


class Task:
    """What one call of the command does: the real images are prepared once, the model is measured once or more."""

    def __init__(self, target: str, o: dict[str, Any], pipeline: Any, bars: "Bars", is_main: bool) -> None:
        self.target, self.o, self.pipeline, self.bars, self.is_main = target, o, pipeline, bars, is_main
        self.columns: tuple[str | None, str | None] = (None, None)
        self.likelihood: dict[str, Any] = {}
        self.folder: Path = o["output_dir"] or Path(target)
        if not self.folder.is_dir() and o["output_dir"] is None:
            self.folder = Path("evaluations") / target  # of a repository, whose results lie in no run's folder

    def prepare(self) -> None:
        """Find the real images, by them the protocol, and what of it the options change."""
        from hfgen.evaluation.measure import metrics_of, prepare
        from hfgen.evaluation.real_images import RealImages
        from hfgen.results.protocol import GENERAL, protocol_of, read_protocol

        o = self.o
        given = read_protocol(o["protocol"]) if o["protocol"] else None
        trained = trained_on(self.target)
        self.dataset = o["dataset_name"] or real_images(trained.get("dataset_name"), given)
        if self.dataset is not None and self.dataset == trained.get("dataset_name"):  # read it as the training did
            for name in ("dataset_config_name", *SIZE):
                o[name] = trained.get(name) if o[name] is None else o[name]
            self.columns = trained.get("image_column"), trained.get("label_column")
        images = self._find(o["split"] or (given.split if given else None))
        size = dataclasses.replace(given or read_protocol(GENERAL), **asked_of(o, SIZE))
        pixels = RealImages.of(images, size.resolution, size.center_crop, self.bars("decoding"))
        self.unchanged = given or protocol_of(pixels.sha256)
        self.protocol = dataclasses.replace(self.unchanged, **changes(self.unchanged, o))
        train = self._train_images()
        possible = [n for n in metrics_of(self.pipeline, self.protocol) if train is not None or n != "authenticity"]
        self.wanted = chosen_metrics(o["metrics"], possible, getattr(self.pipeline, "measured_on_request", ()))
        refuse_unmeasured(self.wanted, o)
        if self.likelihood and not {"bits_per_dim", "nats"} & set(self.wanted):
            raise UsageError(f"--likelihood.{next(iter(self.likelihood))}: no likelihood is measured; see --metrics.")
        self.real = prepare(
            images,
            pixels,
            lambda: train,
            self.protocol,
            self.wanted,
            weights=o["extractor_weights"],
            device=self.pipeline.device,
            bars=self.bars,
        )

    def _find(self, split: str | None) -> "Images":
        from hfgen.data.images import load_images

        if self.dataset is None:
            raise UsageError("Which real images? The model does not tell on what it was trained; give --dataset_name.")
        for name in [split] if split else ["test", "validation"]:
            try:
                found = load_images(self.dataset, name, self.o["dataset_config_name"], *self.columns)
                self.split = name
                return found
            except UsageError as error:
                if split or "has no split" not in str(error):
                    raise
        raise UsageError(
            f"{self.dataset} has no split test or validation to compare with; name one: --split.\n"
            "What a model was trained on tells nothing of what it has learned by heart."
        )

    def _train_images(self) -> "Images | None":
        from hfgen.data.images import load_images

        try:
            where = self.o["dataset_config_name"], *self.columns
            return load_images(str(self.dataset), self.protocol.train_split, *where)
        except UsageError:
            return None

    def measure(self, steps: int | None) -> dict[str, Any]:
        """Draw, compare, write; return what was written, in the main process."""
        from hfgen.evaluation import measure
        from hfgen.evaluation.record import identity, record, result_name

        o = self.o
        options = {name: o[name] for name in CALL_OPTIONS if o.get(name) is not None}
        options.pop("num_inference_steps", None)
        options |= {} if steps is None else {"num_inference_steps": steps}
        told = {**options, **{name: o[name] for name in CHANGED if o[name] is not None}}
        told |= {f"likelihood.{name}": value for name, value in self.likelihood.items()}
        name = result_name(self.protocol, told, self.unchanged, self.real)
        partial = self.folder / "evaluation" / f".{name}.safetensors"
        extractor = self.real.extractor
        sha256 = None if extractor is None else extractor.weights_sha256
        same_images = identity(self.pipeline, self.protocol, options, sha256)
        try:
            values, facts = measure.measure(
                self.pipeline,
                self.real,
                self.protocol,
                self.wanted,
                options=options,
                likelihood=self.likelihood,
                partial=partial,
                identity=same_images,
                bars=self.bars,
            )
            if not self.is_main:
                return {}
            result = record(self.pipeline, self.real, self.protocol, values, facts, options, self.split)
            result["name"] = name_of(self.target)
            result["changed"] = {option: o[option] for option in CHANGED if o[option] is not None}
            result["command"] = self._command(result["name"], steps)
            path = self._write(name, result)
            partial.unlink(missing_ok=True)
        except HFGenError:
            raise
        except OSError as error:
            raise HFGenError(f"{self.folder} cannot be written: {error}; --output_dir is another place.") from error
        click.echo(f"written to {path}", err=True)
        return result

    def _command(self, name: str, steps: int | None) -> str:
        """What repeats the result, without folders of this machine."""
        own = self.unchanged.dataset is not None
        dataset = None if own else self.real.images.dataset_id
        split = None if self.split == self.unchanged.split else self.split
        options = {**self.o, "num_inference_steps": steps, "dataset_name": dataset, "split": split}
        options |= {name: None for name in SIZE if self.o[name] == getattr(self.unchanged, name)}
        options |= {f"likelihood.{name}": value for name, value in self.likelihood.items()}
        return command_line(name, self.unchanged.name, options)

    def _write(self, name: str, result: Mapping[str, Any]) -> Path:
        """The result; and the card anew, where it is the run's own and nobody has edited it."""
        from hfgen.cards import card
        from hfgen.results.records import merged, write

        was_its_own = card.is_rendered(self.folder)
        result = merged(self.folder / "evaluation" / f"{name}.json", dict(result))
        path = write(self.folder, name, result)
        if was_its_own:
            card.write_card(self.folder, card.name_on(self.folder))
        elif was_its_own is False:
            click.echo(f"the card in {self.folder} was edited; `hfgen card` renders it anew", err=True)
        return path


def likelihood_of(pipeline: Any, dotted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options `--likelihood.NAME VALUE`, checked by what this family's `log_likelihood` takes."""
    from hfgen.evaluation.likelihoods import likelihood_options

    for component, options in dotted.items():
        if component != "likelihood":
            option = next(iter(options))
            raise click.NoSuchOption(f"--{component}.{option}")
    return likelihood_options(pipeline, dotted.get("likelihood", {}))


def name_of(target: str) -> str:
    """A repository's id; a folder's name, of a checkpoint with the run's before it."""
    if not Path(target).exists():
        return target
    parts = Path(target).resolve().parts
    return "/".join(parts[-3:] if parts[-2] == "checkpoints" else parts[-1:])


def command_line(name: str, protocol: str, o: Mapping[str, Any]) -> str:
    """What repeats a result; without folders of this machine."""
    words = ["hfgen", "evaluate", name, "--protocol", protocol]
    for option in (*REPEATED, *(name for name in o if name.startswith("likelihood."))):
        value = o.get(option)
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no_{option}")
        elif value is not None:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def real_images(trained: str | None, protocol: "Protocol | None") -> str | None:
    """What a model was trained on, if it is at hand; else what the protocol is about, in a copy from the Hub."""
    at_hand = trained is not None and (trained in BUILT_IN_FOLDERS or Path(trained).exists())
    if at_hand or protocol is None or protocol.dataset is None:
        return trained
    return protocol.dataset


def trained_on(target: str) -> dict[str, Any]:
    """What a run's config.yaml says of the data."""
    from hfgen.files import read_config_file
    from hfgen.run_folder import CONFIG

    place = Path(target)
    for folder in (place, place.parent.parent) if place.is_dir() else ():  # a run, or a checkpoint of one
        if (folder / CONFIG).is_file():
            config = read_config_file(folder / CONFIG)
            return {**config, "dataset_name": config.get("dataset_name") or config.get("train_data_dir")}
    return {}


def changes(protocol: "Protocol", o: Mapping[str, Any]) -> dict[str, Any]:
    """What the options make different from the protocol as it is written."""
    asked = asked_of(o, ("num_images", "seed", "extractor", *SIZE))
    if o["num_likelihood_images"] is not None:
        asked["likelihood_images"] = o["num_likelihood_images"]
    if asked.get("extractor", protocol.extractor) != protocol.extractor or o["extractor_weights"]:
        asked["extractor_sha256"] = None
    return asked


def asked_of(o: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that were given."""
    return {name: o[name] for name in names if o[name] is not None}


def chosen_metrics(text: str | None, possible: Sequence[str], on_request: Iterable[str]) -> list[str]:
    """The metrics that were asked for, else all that are soon measured."""
    if text is None:
        found = [name for name in possible if name not in on_request]
        if set(found) <= {"parameters"}:
            raise UsageError(
                "No protocol is about these images, and there is no likelihood to measure; in whose features are\n"
                "they to be compared? Give --extractor; `hfgen list extractors` shows them."
            )
        return found
    return chosen(text, possible, "--metrics")


def refuse_unmeasured(wanted: Sequence[str], o: Mapping[str, Any]) -> None:
    """Raise a UsageError of a limit that could not be kept whatever is measured: before anything is."""
    for limit in (name for name in LIMITS if o[name] is not None):
        name = limit.partition("_")[2]
        if name not in wanted:
            raise UsageError(f"--{limit}: {name} is not measured here; see --metrics.")
        if not math.isfinite(o[limit]):
            raise UsageError(f"--{limit} is {o[limit]}; a number is expected.")


def require(results: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> None:
    """Raise a CheckError where a limit is not kept."""
    for limit, bound in limits.items():
        side, _, name = limit.partition("_")
        for result in results:
            value = result["values"][name]["value"]
            if value > bound if side == "max" else value < bound:
                raise CheckError(f"{METRICS[name].title} of {result['name']} is {value:.4g}; --{limit} is {bound:g}.")


def table(result: Mapping[str, Any]) -> str:
    """The values of a result, each beside its floor, and under what rules they were found."""
    from hfgen.results.words import shown, table as columns, under

    rows = [
        {
            "metric": METRICS[name].title,
            "value": shown(value),
            "floor": f"real {shown(result['floor'][name])}" if name in result["floor"] else "",
        }
        for name, value in result["values"].items()
    ]
    warning = f"\nwarning: {result['warning']}" if "warning" in result else ""
    return f"{result['name']}: {under(result)}\n{columns(rows)}{warning}"


def _bars(visible: bool) -> "Bars":
    """A bar on a terminal; elsewhere a line, and one a minute of work that takes longer."""
    return lambda what: functools.partial(_shown, what, visible)


def _shown(what: str, visible: bool, items: Sequence[int]) -> Iterable[int]:
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(items, what, disable=not visible, leave=False, delay=2)
    return _told(what, items) if visible else items


def _told(what: str, items: Sequence[int]) -> Iterable[int]:
    click.echo(f"{what} ...", err=True)
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told > 60:
            told = time.monotonic()
            click.echo(f"{what}: {done} of {len(items)}", err=True)
        yield item
