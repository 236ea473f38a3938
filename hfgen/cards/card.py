"""The model card of a run, rendered from the run's own files: the model, its training and how to use it."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from hfgen import run_folder
from hfgen.cards.parts import how_to_load, python_snippet, sample_command, unmarked
from hfgen.cards.results_section import eval_results, measured, quality_first
from hfgen.cards.validation_section import validated
from hfgen.errors import HFGenError, UsageError, counted
from hfgen.files import looks_local, read_config_file, write_text
from hfgen.registry import get_family, modality_of
from hfgen.repository.index import MODEL_INDEX, is_bundled
from hfgen.results.records import FOLDER, Result, read_results
from hfgen.results.words import markdown_table, plain_text
from hfgen.run_folder import listed, pictured, scalars, tabled
from hfgen.settings.optimizers import OPTIONS
from hfgen.settings.options import FROM_PRETRAINED

CARD = "README.md"
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:/[\w./-]+)?@[0-9a-f]{40}")  # a component's source, with its commit
TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ description }}{{ conditional }}, trained with hfgen on {{ data }}.

{{ grid }}

{{ words }}
{{ measured }}
## Use

`pip install {{ packages }}`, then

```python
{{ python }}
```

or `{{ command }}`. `{{ folder }}` stands for the
path of this folder, or the id of its repository.{{ classes }}{{ without_hfgen }}

## What it is

| component | class | parameters |
|---|---|---|
{% for row in components -%}
| {{ row.name }} | `{{ row.class_name }}` | {{ row.parameters }} |
{% endfor %}
{{ several | capitalize }}: {{ shape }}.{{ notes }}

## How it was trained

{{ steps }} optimizer steps ({{ epochs }} epochs) of {{ batch }} {{ several }} in {{ seconds }} on {{ hardware }}.
{{- optimizers }}{{ validated }}

<details>
<summary>All settings</summary>

```yaml
{{ config }}
```

</details>

`hfgen train --config config.yaml` repeats the run. Versions: {{ versions }}.

![losses](plots/loss.png)
{{ diagnosis }}
## Limits

The model repeats the gaps and biases of its training data, and {{ no }} that it samples is a record of anything real.
{{ quality_note }}

## References
{% for reference in references %}
- {{ reference }}
{%- endfor %}
"""

DIAGNOSIS = """
## Diagnosis

On training {}, after the last step{}.
{}"""
NATS = "; likelihoods and divergences in nats per {}, unless named otherwise"


def write_card(folder: Path, name: str | None = None) -> Path:
    """Write README.md of a finished run.

    Args:
        name: the model's; default the folder's.

    Raises:
        UsageError: the folder holds no finished run.
    """
    path = folder / CARD
    write_text(path, render(folder, name))
    return path


def name_on(folder: Path) -> str:
    """The model's name in its card, since a folder may have been renamed; of a published model, its id."""
    found = re.search(
        r"^# ((?:[\w][\w.-]*/)?[\w][\w .-]*)$", (folder / CARD).read_text(encoding="utf-8"), re.MULTILINE
    )
    return found[1] if found else folder.resolve().name


def is_rendered(folder: Path) -> bool | None:
    """Tell whether `render` makes this very card of the folder's files; None where there is no run or no card."""
    if not (folder / CARD).is_file():
        return None
    try:
        return unmarked((folder / CARD).read_text(encoding="utf-8")) == render(folder, name_on(folder))
    except (HFGenError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def render(folder: Path, name: str | None = None, bundled: bool = False) -> str:
    """Render the card from nothing but the run's files: rendered again, it is the same text.

    Args:
        name: the model's; default the folder's.
        bundled: the folder will have code beside its weights, as it may have already (`hfgen.repository.bundle`).

    Raises:
        UsageError: the folder holds no finished run, or a damaged file.
    """
    facts, name = read_facts(folder), name or folder.resolve().name
    pipeline_class: Any = get_family(facts["config"]["model"]).load()
    results = quality_first(read_results(folder))
    try:
        data = card_data(name, facts, pipeline_class, results)
        text = _text(folder, name, facts, pipeline_class, results)
        text["without_hfgen"] = how_to_load(name) if bundled or is_bundled(folder) else ""
        return str(ModelCard.from_template(data, template_str=TEMPLATE, **text))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{folder}: a file of the run or of {FOLDER}/ is damaged: {type(error).__name__} "
            f"{error}\nMeasure again with `hfgen evaluate`, or restore {run_folder.CONFIG}, {run_folder.ENVIRONMENT}."
        ) from error


def read_facts(folder: Path) -> dict[str, Any]:
    """config.yaml, env.json, and the metrics of a run: all lines, and the last.

    Raises:
        UsageError: one of them is missing or damaged; it says which.
    """
    missing = [name for name in (run_folder.CONFIG, run_folder.METRICS) if not (folder / name).exists()]
    if missing:
        raise UsageError(
            f"{folder} holds no finished run: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
            + (ONE_OF_ITS_OWN if (folder / CARD).is_file() and (folder / MODEL_INDEX).is_file() else "")
        )
    config = read_config_file(folder / run_folder.CONFIG)
    if not isinstance(config.get("model"), str):
        raise UsageError(f"{folder / run_folder.CONFIG} is damaged: it does not say which `model` was trained.")
    metrics = run_folder.read_metrics(folder)
    if not metrics:
        raise UsageError(_without_metrics(folder / run_folder.METRICS))
    environment = run_folder.read_environment(folder)
    return {"config": config, "environment": environment, "lines": metrics, "last": metrics[-1]}


ONE_OF_ITS_OWN = (
    "\nIts README.md was not made from a run, as that of a model that `hfgen convert` wrote: it stays as it is, and\n"
    "cannot be rendered again; to change it, edit it."
)


def _without_metrics(path: Path) -> str:
    if not path.is_file():
        return f"{path} is not a file."
    if path.stat().st_size == 0:
        return f"{path} is empty: the run logged no step."
    return f"{path} is damaged: its first line is not a JSON dictionary with a `step`."


def card_data(name: str, facts: Mapping[str, Any], pipeline_class: Any, results: list[Result]) -> ModelCardData:
    """The metadata that the Hub searches and shows, with the measured values."""
    config, environment, modality = facts["config"], facts["environment"], modality_of(pipeline_class)
    found = eval_results(results)
    arxiv = [r.rpartition("arXiv:")[2] for r in pipeline_class.references if "arXiv:" in r]
    dataset = environment["data"].get("dataset_id")
    return ModelCardData(
        library_name="hfgen",
        pipeline_tag=modality.pipeline_tag,
        license=config.get("license"),
        tags=["hfgen", config["model"], *modality.tags, *(f"arxiv:{number}" for number in arxiv)],
        datasets=[dataset] if dataset else None,
        base_model=_base_models(config),
        model_name=name.rpartition("/")[2] if found else None,
        eval_results=found or None,
    )


def _base_models(config: Mapping[str, Any]) -> str | list[str] | None:
    """The repositories that the model or its components began from."""
    base = config.get("pretrained_model_name_or_path")
    found = list(dict.fromkeys([*([base] if base and not Path(base).exists() else []), *_repositories(config)]))
    return found if len(found) > 1 else found[0] if found else None


def _text(
    folder: Path, name: str, facts: Mapping[str, Any], pipeline_class: Any, results: list[Result]
) -> dict[str, Any]:
    config, environment, last = facts["config"], facts["environment"], facts["last"]
    data, modality, count = environment["data"], modality_of(pipeline_class), config["num_validation_images"]
    options = _sampled_with(environment)
    one, several = modality.noun
    has_ema = config["use_ema"] and (pipeline_class.ema_components or environment.get("averaged"))
    weights = " (EMA weights)" if has_ema else ""
    notes = [] if results else ["No quality metric was measured in this run."]
    notes += [] if config.get("license") else ["No license was chosen for this model yet."]
    return {
        "title": name,
        "description": pipeline_class.description,
        "conditional": ", class-conditional" if config["class_conditional"] else "",
        "data": f"{data['count']:,} {several} of {data['name']}" if data["count"] else f"a stream of {data['name']}",
        "no": f"no {one}",
        "several": several,
        "grid": modality.card_block(count, data, folder, f"samples/step_{last['step']:06d}"),
        "words": modality.card_words(
            count, weights, "".join(f", {name}={value!r}" for name, value in options.items())
        ),
        "folder": name,
        "python": python_snippet(name, options, config["class_conditional"], several),
        "command": shlex.join(sample_command(name, options, modality.sample_file)),
        "components": environment["components"],
        "shape": modality.card_shape(data),
        "steps": f"{last['step']:,}",
        "epochs": f"{last['epoch']:g}",
        "batch": environment["global_batch_size"],
        "seconds": _duration(last["seconds"]),
        "hardware": _hardware(environment),
        "optimizers": _optimizers(config.get("optimizer") or {}),
        "validated": validated(config, data, facts["lines"], several),
        "notes": "".join(f" {note}" for note in (*pipeline_class.notes, *_component_notes(environment))),
        "diagnosis": _diagnosis(folder, last, modality.noun),
        "measured": measured(results),
        "quality_note": " ".join(notes),
        "config": yaml.safe_dump(without_folders(config, data["dataset_id"]), sort_keys=False).strip(),
        "packages": " ".join(dict.fromkeys(["hfgen", environment["plugin"].get("distribution", "hfgen")])),
        "versions": _versions(environment),
        "classes": _classes(data) if config["class_conditional"] else "",
        "references": pipeline_class.references,
    }


def _component_notes(environment: Mapping[str, Any]) -> list[str]:
    notes = environment.get("component_notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise UsageError(f"{run_folder.ENVIRONMENT}: component_notes must be a list of sentences; it is\n{notes}")
    return notes


def program(folder: Path, name: str) -> str:
    """The card's snippets as one program, made from the run's settings and never from text in its files."""
    facts = read_facts(folder)
    options, modality = _sampled_with(facts["environment"]), modality_of(get_family(facts["config"]["model"]).load())
    python = python_snippet(name, options, bool(facts["config"]["class_conditional"]), modality.noun[1])
    words = sample_command(name, options, modality.sample_file)
    return f"{python}\nfrom hfgen.commands.main import main\nmain({words[1:]!r})"


def _sampled_with(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the call that sampled the grid; they become code in the card's snippet, so names are checked."""
    options = environment.get("sampled_with", {})
    plain = isinstance(options, dict) and all(
        name.isidentifier() and isinstance(value, int | float | str) for name, value in options.items()
    )
    if not plain:
        raise UsageError(
            f"{run_folder.ENVIRONMENT}: sampled_with must hold options of the pipeline's call; it holds\n{options}"
        )
    return options


def _diagnosis(folder: Path, last: Mapping[str, Any], noun: Sequence[str]) -> str:
    """The family's diagnosis of its model on training items, after the last step."""
    rows = "".join(f"| {_words(name)} | {value:.5g} |\n" for name, value in scalars(last).items())
    text = f"\n| | |\n|---|---|\n{rows}" if rows else ""
    text += "".join(f"\n**Warning:** {warning}\n" for warning in last.get("diagnosis", {}).get("warnings", ()))
    text += "".join(f"\n![{_words(name)}](plots/{name}.png)\n" for name in listed(last))
    text += "".join(f"\n{_words(n)}:\n\n{markdown_table(t['columns'], t['rows'])}\n" for n, t in tabled(last).items())
    text += "".join(f"\n![{_words(n)}](samples/{n}_{last['step']:06d}.png)\n" for n in pictured(last))
    measured = NATS.format(noun[0]) if rows or listed(last) or tabled(last) else ""
    drawn = f"samples/reconstructions_{last['step']:06d}.png"
    if (folder / drawn).is_file():
        text += f"\nEach row of training images is above its reconstructions:\n\n![reconstructions]({drawn})\n"
    return DIAGNOSIS.format(noun[1], measured, text) if text else ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def without_folders(config: Mapping[str, Any], dataset_id: str | None) -> dict[str, Any]:
    """Shorten local paths to their last part, because a card is public.

    Args:
        dataset_id: of the dataset on the Hub; None for a local one, wherever the card is rendered.
    """
    names = [name for name in ("dataset_name", "train_data_dir") if config.get(name) and dataset_id is None]
    base = config.get("pretrained_model_name_or_path")
    names += ["pretrained_model_name_or_path"] if base and (looks_local(base) or Path(base).exists()) else []
    return {**_with_short_sources(config), **{name: Path(config[name]).name for name in names}}


def _with_short_sources(config: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten the folders that components were loaded from; repositories are written with their commit."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            value = _with_short_sources(value)
        elif name == FROM_PRETRAINED and isinstance(value, str) and not REPOSITORY.fullmatch(value):
            value = Path(value).name
        found[name] = value
    return found


def _repositories(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids of repositories that components were loaded from."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _repositories(value)
        elif name == FROM_PRETRAINED and isinstance(value, str) and (found := REPOSITORY.fullmatch(value)):
            yield found[1]


def _classes(data: Mapping[str, Any]) -> str:
    names = data.get("class_names")
    listed = (
        ": " + ", ".join(f"{number} {plain_text(str(name))}" for number, name in enumerate(names)) if names else ""
    )
    return f"\n\nIt is class-conditional; without `class_labels` each seed draws its own class{listed}."


def _versions(environment: Mapping[str, Any]) -> str:
    plugin = environment["plugin"]
    versions = {plugin["distribution"]: plugin["version"]} if plugin else {}
    return ", ".join(f"{name} {version}" for name, version in {**versions, **environment["versions"]}.items())


def _hardware(environment: Mapping[str, Any]) -> str:
    devices = environment["accelerators"] or [
        f"{counted(environment['threads'], 'thread')} of {environment['processor']}"
    ]
    return ", ".join(devices)


def _optimizers(given: Mapping[str, Mapping[str, Any]]) -> str:
    """
    >>> _optimizers({"critic": {"class_name": "RMSprop", "learning_rate": 3e-3, "no_decay": True}})
    '\\nOptimizers of their own: critic by RMSprop (learning_rate 0.003, no_decay True).'
    """
    told = []
    for name, options in given.items():
        others = ", ".join(f"{key} {options[key]}" for key in OPTIONS if key in options and key != "class_name")
        told.append(f"{name} by {options.get('class_name') or 'AdamW'}" + (f" ({others})" if others else ""))
    return f"\nOptimizers of their own: {'; '.join(told)}." if told else ""


def _duration(seconds: float) -> str:
    """
    >>> _duration(75), _duration(42.3), _duration(7300)
    ('1 min 15 s', '42 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
