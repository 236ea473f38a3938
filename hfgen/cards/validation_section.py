"""The sentences of a card on what a training measured itself, on its validation images."""

from collections.abc import Mapping, Sequence
from typing import Any

from hfgen.results.metrics import METRICS

PREFIX = "validation_"


def validated(
    config: Mapping[str, Any], data: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], several: str = "images"
) -> str:
    """Say what the last validation measured, and when `--best_metric` was best; empty where nothing was measured.

    Args:
        data: the `data` of the run's environment.
        lines: of the run's metrics.
        several: the noun of the items.
    """
    measured = [{name: line[PREFIX + name] for name in METRICS if PREFIX + name in line} for line in lines]
    steps = [line["step"] for line in lines]
    last = next((values for values in reversed(measured) if values), None)
    if last is None:
        return ""
    values = ", ".join(f"{METRICS[name].title} {value:.5g}" for name, value in last.items())
    text = f"\n\nThe last validation, on {_measured_on(config, data, several)}, measured {values}."
    best = str(config.get("best_metric"))
    found = [(values[best], step) for values, step in zip(measured, steps, strict=True) if best in values]
    if found:
        value, step = (max if METRICS[best].better == "higher" else min)(found, key=lambda pair: pair[0])
        text += f"\nThe best {METRICS[best].title} was {value:.5g}, at step {step:,}"
        text += " too." if step == steps[-1] else ": `best/` of the run's folder keeps that model."
    return text


def _measured_on(config: Mapping[str, Any], data: Mapping[str, Any], several: str) -> str:
    """
    >>> _measured_on({"num_evaluation_images": 500, "validation_split": "test"}, {}, "images")
    'up to 500 images of the split test'
    >>> _measured_on({"num_evaluation_images": 500}, {"held_out": {"count": 20}}, "images")
    '20 images that were held out'
    """
    most, part = config["num_evaluation_images"], data.get("held_out")
    if part:
        return f"{min(most, part['count']):,} {several} that were held out"
    return f"up to {most:,} {several} of the split {config.get('validation_split')}"
