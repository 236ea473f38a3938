"""What was measured of a model, as a card tells it: rows of a table, and the metadata that the Hub reads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from hfgen.results.metrics import METRICS
from hfgen.results.words import shown

TASK = "unconditional-image-generation"
COSTS = ("network_evaluations", "seconds_per_image", "parameters")  # facts of the machine and the model, no quality
Result = Mapping[str, Any]

PROTOCOL = """
### {title}

{count} images of the model, seeds {first} to {last}, beside {reference}, in the features of `{extractor}`; drawn by
{sampler}. The last column: the same metric of {floor}.{warning} `{command}` repeats it.

| metric | value | real images |
|---|---|---|
{rows}"""
NO_SAMPLES = """
### {title}

Of {reference}.{warning} `{command}` repeats it.

| metric | value | |
|---|---|---|
{rows}"""


def measured(results: Sequence[Result]) -> str:
    """The card's section of all that was measured; empty where nothing was."""
    rows = "".join(ROWS[result["metric"]](result) for result in results if result["metric"] in ROWS)
    text = f"\n| what | on | value | how |\n|---|---|---|---|\n{rows}" if rows else ""
    text += "".join(evaluation_section(result) for result in results if result["metric"] == "evaluation")
    return f"\n## Measured\n{text}" if text else ""


def evaluation_section(result: Result) -> str:
    """A result of `hfgen evaluate`, all of its values."""
    protocol, reference, extractor = result["protocol"], result["reference"], result["extractor"]
    title = title_of(result)
    values, floor = result["values"], result["floor"]
    beside = {name: shown(floor[name]) if name in floor else "" for name in values}
    rows = "".join(
        f"| {METRICS[name].title}{bound_of(name, result)} | {shown(value)} | {beside[name]} |\n"
        for name, value in values.items()
    )
    words = {
        "title": title,
        "reference": f"the {reference['images']:,} images of {reference['name']}, {reference['split']}",
        "warning": f" **{result['warning'].capitalize()}.**" if "warning" in result else "",
        "command": result["command"],
        "rows": rows,
    }
    if not any(METRICS[name].of_samples for name in values):
        return NO_SAMPLES.format(**words)
    return PROTOCOL.format(
        **words,
        count=f"{protocol['num_images']:,}",
        first=protocol["seed"],
        last=protocol["seed"] + protocol["num_images"] - 1,
        extractor=extractor["name"],
        sampler=sampler_of(result),
        floor="as many training images in the model's place; of authenticity, of the real test images",
    )


def title_of(result: Result) -> str:
    """`mnist-v1, DDIMScheduler, num_inference_steps 20`: what tells this result from others of the model."""
    return ", ".join([result["protocol"]["name"], *(f"{name} {value}" for name, value in chosen(result).items())])


def chosen(result: Result) -> dict[str, Any]:
    """What departs from the model's own way to draw: options of the call, another scheduler, prior or precision."""
    return {**result["sampler"]["options"], **result.get("changed", {})}


def sampler_of(result: Result) -> str:
    sampler = result["sampler"]
    options = "".join(f", {name} {value}" for name, value in sampler["options"].items())
    return f"`{sampler['scheduler']}`{options}"


def bound_of(name: str, result: Result) -> str:
    """Of a likelihood: whether it is a bound, and of how many values."""
    likelihood = result.get("likelihood")
    if likelihood is None or name not in ("bits_per_dim", "nats"):
        return ""
    samples, values = likelihood["num_importance_samples"], likelihood["num_values"]
    parts = [likelihood["kind"], *([f"K = {samples:,}"] if samples else [])]
    parts += [f"of {values} values" if values else "a density", f"{likelihood['images']:,} images"]
    return f" ({', '.join(parts)})"


def eval_results(results: Iterable[Result]) -> list[EvalResult]:
    """For `model-index`: plain floats, with what says what numbers they are in `metric_args`."""
    return [
        _eval_result(result, name, value)
        for result in results
        if result["metric"] == "evaluation"
        for name, value in result["values"].items()
        if name not in COSTS
    ]


def _eval_result(result: Result, name: str, value: Mapping[str, float]) -> EvalResult:
    protocol, extractor = result["protocol"], result["extractor"]
    arguments = {"protocol": protocol["name"], **chosen(result)}
    title = METRICS[name].title
    if (METRICS[name].of_samples or name == "reconstruction_fid") and extractor is not None:
        title += f" ({extractor['name']}, n={protocol['num_images']:,})"
        arguments |= {"num_images": protocol["num_images"], "seed": protocol["seed"]}
        arguments |= {"extractor": extractor["name"], "extractor_sha256": extractor["weights_sha256"]}
    else:
        title += bound_of(name, result)
    reference = result["reference"]
    return EvalResult(
        task_type=TASK,
        dataset_type=protocol["dataset"] or reference["name"],
        dataset_name=reference["name"],
        dataset_split=reference["split"],
        metric_type=name,
        metric_name=title,
        metric_value=float(value["value"]),
        metric_args=arguments,
    )


# --- what older tools of the project measured ---------------------------------------------------------------------
def _likelihood_row(result: Result) -> str:
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


def _sampling_rows(result: Result) -> str:
    size, how = result["batch_size"], result["how"]
    return "".join(
        f"| sampling, {row['num_inference_steps']:,} steps of {row['scheduler']} | {size} images at once "
        f"| {row['seconds']:.3g} s, {row['seconds'] / size:.2g} s an image | {how} |\n"
        for row in result["rows"]
    )


ROWS = {"log_likelihood": _likelihood_row, "sampling_time": _sampling_rows}
