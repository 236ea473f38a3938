"""The measured values on a card: rows of tables, and the metadata that the Hub reads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from hfgen.results.metrics import COSTS, FACTS, LIKELIHOOD, METRICS, QUALITY
from hfgen.results.records import Result
from hfgen.results.words import extractor_in_words, shown

TASK = "unconditional-image-generation"

PROTOCOL = """
### {title}

{images}, beside {reference}{extractor}; {sampler}.
The last column: the same metric of {floor}.{warning} `{command}` repeats it.

| metric | value | real {noun} |
|---|---|---|
{rows}"""
TIMES = """
### {title}

{images}; {sampler} on {hardware}.{warning} `{command}` repeats it.

| metric | value |
|---|---|
{rows}"""
NO_SAMPLES = """
### {title}

On {noun} of {dataset}.{warning} `{command}` repeats it.

| metric | value |
|---|---|
{rows}"""
FLOOR = "as many training images in the model's place; of authenticity, of the real test images"


def quality_first(results: Sequence[Result]) -> list[Result]:
    """Results with metrics of sampled images, then the others, otherwise in their order."""
    return sorted(results, key=lambda result: not set(QUALITY) & set(result.values))


def measured(results: Sequence[Result]) -> str:
    """The card's section of all measured values; empty where nothing was measured."""
    text = "".join(map(section, results))
    return f"\n## Measured\n{text}" if text else ""


def section(result: Result) -> str:
    """The section of one result, with all of its values."""
    of_samples = bool(set(QUALITY) & set(result.values))
    template = PROTOCOL if of_samples else TIMES if set(COSTS) & set(result.values) else NO_SAMPLES
    words = {
        "title": title_of(result),
        "images": _images(result),
        "reference": f"the {result.reference['images']:,} {result.noun} of {_dataset(result)}",
        "dataset": _dataset(result),
        "extractor": f", in the features of `{extractor_in_words(result.extractor)}`" if result.extractor else "",
        "noun": result.noun,
        "sampler": _sampler(result),
        "hardware": _hardware(result),
        "floor": FLOOR if result.extractor else f"real {result.noun}",
        "warning": f" **{result.warning.capitalize()}.**" if result.warning else "",
        "command": result.command,
    }
    return template.format(**words, rows="".join(_row(result, name, of_samples) for name in result.values))


def _row(result: Result, name: str, beside_floor: bool) -> str:
    cells = [METRICS[name].title + bound_of(name, result), shown(result.values[name])]
    if beside_floor:
        cells.append(shown(result.floor[name]) if name in result.floor else "")
    return f"| {' | '.join(cells)} |\n"


def title_of(result: Result) -> str:
    """`mnist-v1, num_inference_steps 20, scheduler ddim`: the protocol and what departs from the model's own way."""
    return ", ".join([result.protocol["name"], *(f"{name} {value}" for name, value in result.choices.items())])


def _images(result: Result) -> str:
    first, count = result.protocol["seed"], result.protocol["num_images"]
    return f"{count:,} {result.noun} of the model, seeds {first} to {first + count - 1}"


def _dataset(result: Result) -> str:
    return f"{result.reference['name']}, {result.reference['split']}"


def _sampler(result: Result) -> str:
    options = "".join(f", {name} {value}" for name, value in result.sampler["options"].items())
    return f"sampled by\n`{result.sampler['scheduler']}`{options}"


def _hardware(result: Result) -> str:
    hardware = result.hardware
    machine = hardware.get("accelerators") or [f"{hardware.get('threads')} threads of {hardware.get('processor')}"]
    return ", ".join(map(str, machine))


def bound_of(name: str, result: Result) -> str:
    """` (lower bound, K = 8, of 256 values, 10,000 images)` for a likelihood; empty for other metrics."""
    likelihood = result.likelihood
    if likelihood is None or name not in LIKELIHOOD:
        return ""
    samples, values = likelihood["num_importance_samples"], likelihood["num_values"]
    parts = [likelihood["kind"], *([likelihood["method"]] if likelihood.get("method") else [])]
    parts += [f"K = {samples:,}"] if samples else []
    parts += [f"of {values} values" if values else "a density", f"{likelihood['images']:,} {result.noun}"]
    return f" ({', '.join(parts)})"


def eval_results(results: Iterable[Result]) -> list[EvalResult]:
    """The `model-index`: plain floats, with `metric_args` that say how they were measured; not those of few images."""
    return [
        _eval_result(result, name, value)
        for result in results
        for name, value in result.values.items()
        if name not in FACTS  # of the machine and the model: they say nothing of quality
        and not (result.is_of_few and _compares_features(name))  # they would be ranked beside those of many images
    ]


def _compares_features(name: str) -> bool:
    return METRICS[name].of_samples or name == "reconstruction_fid"


def _eval_result(result: Result, name: str, value: Mapping[str, float]) -> EvalResult:
    protocol, extractor = result.protocol, result.extractor
    arguments: dict[str, Any] = {"protocol": protocol["name"], **result.choices}
    title = METRICS[name].title
    if _compares_features(name) and extractor is not None:
        title += f" ({extractor['name']}, n={protocol['num_images']:,})"
        arguments |= {"num_images": protocol["num_images"], "seed": protocol["seed"]}
        arguments |= {"extractor": extractor["name"], "extractor_sha256": extractor["weights_sha256"]}
    else:
        title += bound_of(name, result)
    return EvalResult(
        task_type=result.modality.pipeline_tag or TASK,
        dataset_type=protocol["dataset"] or result.reference["name"],
        dataset_name=result.reference["name"],
        dataset_split=result.reference["split"],
        metric_type=name,
        metric_name=title,
        metric_value=float(value["value"]),
        metric_args=arguments,
    )
