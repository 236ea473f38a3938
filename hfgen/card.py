"""The model card of a run: what was trained, on what, how, and how to use it; from the run's own files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from hfgen import evaluation, run_folder
from hfgen.errors import UsageError
from hfgen.plots import listed, scalars
from hfgen.registry import get_family

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ description }}{{ conditional }}, trained with hfgen on {{ data }}.

![{{ num_images }} samples, seeds 0 to {{ num_images - 1 }}, row by row]({{ grid }})

The picture shows seeds 0 to {{ num_images - 1 }}, row by row{{ weights }}. `seeds=[{{ tile }}]{{ options }}`
draws one of them, tile {{ tile }}, alone.

## Use

`pip install {{ packages }}`, then

```python
from hfgen import HFGenPipeline

pipeline = HFGenPipeline.from_pretrained("{{ folder }}")
images = pipeline(seeds=range(16){{ labels }}{{ options }}).images
```

or `hfgen sample {{ folder }} --seed 0 --num_images 64{{ words }} --output grid.png`. `{{ folder }}` stands for the
path of this folder, or the id of its repository.{{ classes }}

## What it is

| component | class | parameters |
|---|---|---|
{% for row in components -%}
| {{ row.name }} | `{{ row.class_name }}` | {{ row.parameters }} |
{% endfor %}
Images: {{ shape }}.{{ notes }}

## How it was trained

{{ steps }} optimizer steps ({{ epochs }} epochs) of {{ batch }} images in {{ seconds }} on {{ hardware }}.

```yaml
{{ config }}
```

`hfgen train --config config.yaml` repeats the run. Versions: {{ versions }}.

![losses](plots/loss.png)
{{ diagnosis }}{{ measured }}
## Limits

It draws what the training data hold, with their gaps and biases, and no image it draws is a record of anything real.
{{ quality_note }}

## References
{% for reference in references %}
- {{ reference }}
{%- endfor %}
"""


DIAGNOSIS = """
## Diagnosis

On training images, after the last step; likelihoods and divergences in nats per image, unless named otherwise.
{}"""


def write_card(folder: Path) -> Path:
    """Write README.md of a finished run.

    Raises:
        UsageError: the folder holds no finished run.
    """
    facts = read_facts(folder)
    config, environment = facts["config"], facts["environment"]
    pipeline_class: Any = get_family(config["model"]).load()
    data = card_data(config, environment, pipeline_class)
    card = ModelCard.from_template(data, template_str=TEMPLATE, **_text(folder, facts, pipeline_class))
    path = folder / "README.md"
    run_folder.write_text(path, str(card))
    return path


def read_facts(folder: Path) -> dict[str, Any]:
    """config.yaml, env.json and the last metrics of a run."""
    metrics = run_folder.read_metrics(folder)
    if not metrics or not (folder / run_folder.CONFIG).is_file():
        raise UsageError(f"{folder} holds no finished run: {run_folder.CONFIG} or {run_folder.METRICS} is missing.")
    config = yaml.safe_load((folder / run_folder.CONFIG).read_text(encoding="utf-8"))
    environment = json.loads((folder / run_folder.ENVIRONMENT).read_text(encoding="utf-8"))
    return {"config": config, "environment": environment, "last": metrics[-1]}


def card_data(config: Mapping[str, Any], environment: Mapping[str, Any], pipeline_class: Any) -> ModelCardData:
    """The metadata by which the Hub finds and shows the model."""
    arxiv = [r.rpartition("arXiv:")[2] for r in pipeline_class.references if "arXiv:" in r]
    dataset, base = environment["data"].get("dataset_id"), config.get("pretrained_model_name_or_path")
    return ModelCardData(
        library_name="hfgen",
        pipeline_tag="unconditional-image-generation",
        license=config.get("license"),
        tags=["hfgen", config["model"], "image-generation", *(f"arxiv:{number}" for number in arxiv)],
        datasets=[dataset] if dataset else None,
        base_model=None if not base or Path(base).exists() else base,
    )


def _text(folder: Path, facts: Mapping[str, Any], pipeline_class: Any) -> dict[str, Any]:
    config, environment, last = facts["config"], facts["environment"], facts["last"]
    data, results = environment["data"], evaluation.read_results(folder)
    averaged = config["use_ema"] and pipeline_class.ema_components
    notes = [] if results else ["No quality metric was measured in this run."]
    notes += [] if config.get("license") else ["No licence was chosen for this model yet."]
    return {
        "title": folder.resolve().name,
        "description": pipeline_class.description,
        "conditional": ", class-conditional" if config["class_conditional"] else "",
        "data": f"{data['count']:,} images of {data['name']}" if data["count"] else f"a stream of {data['name']}",
        "grid": f"samples/step_{last['step']:06d}.png",
        "num_images": config["num_validation_images"],
        "tile": min(37, config["num_validation_images"] - 1),
        "options": "".join(f", {name}={value!r}" for name, value in environment.get("sampled_with", {}).items()),
        "words": "".join(f" --{name} {value}" for name, value in environment.get("sampled_with", {}).items()),
        "weights": " (averaged weights)" if averaged else "",
        "folder": folder.resolve().name,
        "components": environment["components"],
        "shape": "{channels} x {resolution} x {resolution}".format(**data),
        "steps": f"{last['step']:,}",
        "epochs": f"{last['epoch']:g}",
        "batch": environment["global_batch_size"],
        "seconds": _duration(last["seconds"]),
        "hardware": _hardware(environment),
        "notes": "".join(f" {note}" for note in pipeline_class.notes),
        "diagnosis": _diagnosis(folder, last),
        "measured": _measured(results),
        "quality_note": " ".join(notes),
        "config": yaml.safe_dump(without_folders(config), sort_keys=False).strip(),
        "packages": " ".join(dict.fromkeys(["hfgen", environment["plugin"].get("distribution", "hfgen")])),
        "versions": _versions(environment),
        "labels": ", class_labels=[0] * 16" if config["class_conditional"] else "",
        "classes": _classes(data) if config["class_conditional"] else "",
        "references": pipeline_class.references,
    }


def _diagnosis(folder: Path, last: Mapping[str, Any]) -> str:
    """What the family found when it looked at its model on training images, after the last step."""
    rows = "".join(f"| {_words(name)} | {value:.5g} |\n" for name, value in scalars(last).items())
    text = f"\n| | |\n|---|---|\n{rows}" if rows else ""
    text += "".join(f"\n**Warning:** {warning}\n" for warning in last.get("diagnosis", {}).get("warnings", ()))
    text += "".join(f"\n![{_words(name)}](plots/{name}.png)\n" for name in listed(last))
    drawn = f"samples/reconstructions_{last['step']:06d}.png"
    if (folder / drawn).is_file():
        text += f"\nEach row of training images stands above its reconstructions:\n\n![reconstructions]({drawn})\n"
    return DIAGNOSIS.format(text) if text else ""


def _measured(results: list[dict[str, Any]]) -> str:
    """What was measured: on data that the model was not trained on, and how long it takes."""
    rows = "".join(ROWS[result["metric"]](result) for result in results)
    return f"\n## Measured\n\n| what | on | value | how |\n|---|---|---|---|\n{rows}" if rows else ""


def _likelihood_row(result: Mapping[str, Any]) -> str:
    samples = result["num_importance_samples"]
    kind = f"{result['kind']}, {samples:,} importance samples" if samples else result["kind"]
    kind += f", {result['method']}" if result.get("method") else ""
    discrete = result["bits_per_dim"] is not None
    bits = (
        f"{result['bits_per_dim']:.4f} bits per dimension of {result['num_values']} values"
        if discrete
        else "a density"
    )
    error = "" if result["standard_error"] is None else f" +- {result['standard_error']:.2g}"
    value = f"{result['nats']:.3f}{error} nats, {bits}"
    where = f"{result['images']:,} images of {result['data']}, {result['split']}"
    return f"| ln p(x), mean | {where} | {value} | {kind}; {result['seeds']} |\n"


def _sampling_rows(result: Mapping[str, Any]) -> str:
    size, how = result["batch_size"], result["how"]
    return "".join(
        f"| sampling, {row['num_inference_steps']:,} steps of {row['scheduler']} | {size} images at once "
        f"| {row['seconds']:.3g} s, {row['seconds'] / size:.2g} s an image | {how} |\n"
        for row in result["rows"]
    )


ROWS = {"log_likelihood": _likelihood_row, "sampling_time": _sampling_rows}


def _words(name: str) -> str:
    return name.replace("_", " ")


def without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """A card is public: of a local path it tells the last name only."""
    names = ("dataset_name", "train_data_dir", "pretrained_model_name_or_path")
    local = {n: Path(config[n]).name for n in names if config.get(n) and Path(config[n]).exists()}
    return {**config, **local}


def _classes(data: Mapping[str, Any]) -> str:
    names = data.get("class_names")
    listed = ": " + ", ".join(f"{number} {name}" for number, name in enumerate(names)) if names else ""
    return f"\n\nIt is class-conditional; without `class_labels` each seed draws its own class{listed}."


def _versions(environment: Mapping[str, Any]) -> str:
    plugin = environment["plugin"]
    versions = {plugin["distribution"]: plugin["version"]} if plugin else {}
    return ", ".join(f"{name} {version}" for name, version in {**versions, **environment["versions"]}.items())


def _hardware(environment: Mapping[str, Any]) -> str:
    devices = environment["accelerators"] or [
        f"{_count(environment['threads'], 'thread')} of {environment['processor']}"
    ]
    return ", ".join(devices)


def _count(number: int, noun: str) -> str:
    """
    >>> _count(1, "thread"), _count(2, "thread")
    ('1 thread', '2 threads')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
