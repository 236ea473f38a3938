"""The command `hfgen info TARGET`."""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from hfgen.commands.options import reading_options, refuse_given
from hfgen.commands.pipelines import refuse_local_revision
from hfgen.commands.recipes import list_recipes
from hfgen.commands.targets import check_target
from hfgen.errors import LoadError, UsageError
from hfgen.files import read_config_file, read_json
from hfgen.registry import get_family, list_families, list_modalities
from hfgen.settings.model_configs import component_config
from hfgen.settings.optimizers import OptimizerOptions
from hfgen.settings.options import (
    FAMILY,
    FROM_PRETRAINED,
    component_choices,
    is_pipeline,
    objective_signature,
    signature_of,
    trainable,
)
from hfgen.settings.signatures import declared, described


@click.command("info", short_help="Describe a model, a recipe, a run or a dataset.")
@click.argument("target")
@click.option("--revision", help="Branch, tag or commit of a repository.")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(target: str, revision: str | None, as_json: bool, **reading: Any) -> None:
    """Describe TARGET: a family, a recipe, a dataset, a run folder or a repository.

    With an option by which data are read, as `hfgen train` takes them, TARGET is a dataset.
    """
    refuse_local_revision(target, revision)
    given = {name: value for name, value in reading.items() if value is not None}
    if given and revision:
        refuse_given(["revision"], "on a dataset")
    if given:
        facts = dataset_facts(target, given)
    else:
        facts = pipeline_facts(target, revision) if revision else describe(target)
    text = (
        json.dumps(facts, indent=2)
        if as_json
        else yaml.safe_dump(facts, sort_keys=False, width=110, allow_unicode=True)
    )
    click.echo(text, nl=as_json)


def describe(target: str) -> dict[str, Any]:
    """Return the facts of the first thing of this name: a family, a recipe, a folder, a dataset, a repository."""
    if any(family.name == target for family in list_families()):
        return family_facts(target)
    recipes = list_recipes()
    if target in recipes:
        return {"recipe": target, **yaml.safe_load(recipes[target].read_text(encoding="utf-8"))}
    if (Path(target) / "model_index.json").is_file() and not _is_photos(Path(target)):
        return pipeline_facts(target)
    if (Path(target) / "config.yaml").is_file() and not _is_photos(Path(target)):
        return unfinished_facts(Path(target))
    built_in = [name for modality in list_modalities() for name in modality.built_in]
    if target in built_in or Path(target).exists():
        return dataset_facts(target)
    check_target(target, [*(family.name for family in list_families()), *recipes, *built_in])
    try:
        return pipeline_facts(target)
    except LoadError as error:
        raise LoadError(f"{error}\nThere is no family, recipe or dataset {target!r} either.") from error


def _is_photos(folder: Path) -> bool:
    """Return True for images among which some tool left a file that is called like a model's or a run's."""
    from hfgen import run_folder
    from hfgen.data.walk import walk

    try:
        names_class = "_class_name" in read_json(folder / "model_index.json")
    except (OSError, ValueError, TypeError):
        names_class = False
    try:
        config = read_config_file(folder / run_folder.CONFIG)
    except UsageError:
        config = {}
    is_run = "model" in config and ("dataset_name" in config or "train_data_dir" in config)
    if names_class or is_run or any((folder / n).is_file() for n in (run_folder.METRICS, run_folder.ENVIRONMENT)):
        return False
    found = walk(folder)
    return bool(found.images) and not any(path.endswith(".safetensors") for path in found.others)


def family_facts(name: str) -> dict[str, Any]:
    """Return description, options of each component with type and default, training defaults, references."""
    family = get_family(name)
    cls: Any = family.load()
    return {
        "family": name,
        "plugin": family.source,
        "description": cls.description,
        "components": {name: _component(choices) for name, choices in component_choices(cls).items()},
        "objective": {"class": cls.objective_class.__name__, "options": _options(objective_signature(cls))},
        "optimizer": {"of": trainable(cls), "options": _options(signature_of(OptimizerOptions))},
        **_calls(cls),
        "training_defaults": dict(cls.training_defaults),
        "averaged": list(cls.ema_components),
        **({"frozen": list(cls.frozen_components)} if cls.frozen_components else {}),
        **({"training_only": list(cls.training_only_components)} if cls.training_only_components else {}),
        "references": list(cls.references),
    }


def _component(choices: tuple[type, ...]) -> dict[str, Any]:
    """Return class and options; of several classes each with its own, the default first."""
    if is_pipeline(choices[0]):
        names = " | ".join(choice.__name__ for choice in choices)
        return {
            "class": names,
            "options": {FAMILY: "a family, whose components' options follow", FROM_PRETRAINED: "str"},
        }
    described = [{"class": c.__name__, "options": _options(signature_of(c))} for c in choices]
    return described[0] if len(described) == 1 else {"class_name": {d.pop("class"): d for d in described}}


def _options(signature: dict[str, inspect.Parameter]) -> dict[str, str]:
    """Return each option as its class declares it: `base_channels` -> `int = 64`."""
    return {name: declared(p) for name, p in signature.items()}


def _calls(cls: type) -> dict[str, dict[str, str]]:
    """Return the options with which a model of this class is sampled and evaluated, as they are typed."""
    kinds = {"sampling_options": ("sample", "--"), "walk_options": ("decode", "--")}
    kinds["likelihood_options"] = ("log_likelihood", "--likelihood.")
    found = {kind: (described(cls, method), prefix) for kind, (method, prefix) in kinds.items()}
    return {kind: {prefix + n: text for n, text in facts.items()} for kind, (facts, prefix) in found.items() if facts}


def _scheduler_options(scheduler: Any) -> dict[str, str]:
    """Return the settings of a model's scheduler, each with its type and the value that it has here."""
    signature, config = signature_of(type(scheduler)), component_config(scheduler)
    return {f"--scheduler.{n}": declared(p.replace(default=config.get(n, p.default))) for n, p in signature.items()}


def pipeline_facts(target: str, revision: str | None = None) -> dict[str, Any]:
    """Return family, components with parameters, and, if known, the training of a run folder or a repository."""
    from hfgen import HFGenPipeline, run_folder
    from hfgen.cards.parts import component_rows
    from hfgen.hub.download import local_folder

    folder = Path(local_folder(target, revision=revision))
    pipeline = HFGenPipeline.from_pretrained(folder)
    rows = {row["name"]: {k: v for k, v in row.items() if k != "name"} for row in component_rows(pipeline.models())}
    facts: dict[str, Any] = {"pipeline": type(pipeline).__name__, **_place(folder), "components": rows}
    facts |= _calls(type(pipeline))
    if getattr(pipeline, "scheduler", None) is not None:
        facts["scheduler_options"] = _scheduler_options(pipeline.scheduler)
    metrics = run_folder.read_metrics(folder)
    if metrics:
        facts["last_metrics"] = metrics[-1]
    if (folder / run_folder.CONFIG).is_file():
        facts["config"] = read_config_file(folder / run_folder.CONFIG)
    return facts


def _place(folder: Path) -> dict[str, Any]:
    """Return the commit of a repository's snapshot, and the variants of the weights that are here."""
    from hfgen.repository.weights import WEIGHTS, variant_of

    names = [path.name for path in folder.glob("*/*") if WEIGHTS.fullmatch(path.name)]
    variants = sorted(filter(None, {variant_of(name) for name in names}))
    commit = {"commit": folder.name} if re.fullmatch(r"[0-9a-f]{40}", folder.name) else {}
    return {**commit, **({"variants": variants} if variants else {})}


def unfinished_facts(folder: Path) -> dict[str, Any]:
    """Return the facts of a run that is going on or was stopped before its end."""
    from hfgen import run_folder
    from hfgen.training import checkpoint

    kept, metrics = checkpoint.list_checkpoints(folder), run_folder.read_metrics(folder)
    return {
        "unfinished_run": str(folder),
        "last_checkpoint": str(kept[-1]) if kept else None,
        "last_metrics": metrics[-1] if metrics else None,
        "config": read_config_file(folder / run_folder.CONFIG),
    }


def dataset_facts(target: str, options: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Return what a training with these options would infer from the data."""
    items = _items_of(target, options)
    return {
        "dataset": target,
        items.noun[1]: len(items),
        **items.info(),
        "classes": items.num_classes,
        "class_names": items.label_names or (items.num_classes and [*map(str, range(items.num_classes))]),
        "splits": items.splits,
        "notes": items.notes,
    }


def _items_of(target: str, options: Mapping[str, Any]) -> Any:
    """Find a dataset as the first modality does that knows it: the built-in one's own, else images before others.

    Raises:
        UsageError: none does; in the words of the first.
    """
    modalities = list_modalities()
    owner = [modality for modality in modalities if target in modality.built_in]
    first: UsageError | None = None
    for modality in owner or modalities:
        try:
            return modality.find(target, str(options.get("dataset_split", "train")), options)
        except UsageError as error:
            first = first or error
    assert first is not None
    raise first
