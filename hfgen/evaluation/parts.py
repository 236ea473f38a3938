"""A measurement split by the options that its metrics use, so that no value is labeled with an option it did not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hfgen.errors import UsageError
from hfgen.evaluation.evaluate import Evaluation, Sampling
from hfgen.evaluation.measure import reconstruction_options
from hfgen.results.metrics import COSTS, LIKELIHOOD, QUALITY, RECONSTRUCTION

Part = tuple[Sampling, list[str]]


def parts(pipeline: Any, metrics: Sequence[str], samplings: Iterable[Sampling]) -> list[Part]:
    """Return each set of options that metrics use, with these metrics; a likelihood is measured once for all steps.

    Raises:
        UsageError: an option of sampling that no metric uses.
    """
    found: list[Part] = []
    for sampling in samplings:
        used = [(_used(pipeline, name, sampling), name) for name in metrics if name != "parameters"]
        for option in sampling.options:
            if not any(option in way.options for way, _ in used):
                raise UsageError(
                    f"--{option}: no metric uses it; it is an option of sampling, and {', '.join(metrics)} "
                    "sample no image with it.\nLeave it out, or add a metric of sampled images to --metrics."
                )
        for way, name in used:
            names = next((names for known, names in found if known == way), None)
            if names is None:
                found.append((way, [name]))
            elif name not in names:
                names.append(name)
    if "parameters" in metrics:  # beside each cost, and in one result at least
        found = found or [(Sampling(), [])]
        for _, names in [part for part in found if {*QUALITY, *COSTS} & set(part[1])] or found[:1]:
            names.append("parameters")
    return found


def _used(pipeline: Any, metric: str, sampling: Sampling) -> Sampling:
    """Return the options that a metric uses; what changed the pipeline itself holds for all of them."""
    if metric in LIKELIHOOD:
        return replace(sampling, options={})
    if metric in RECONSTRUCTION:
        return replace(sampling, options=_of_reconstruction(pipeline, sampling.options), likelihood={})
    return replace(sampling, likelihood={})


def _of_reconstruction(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    taken = reconstruction_options(type(pipeline))
    return {name: value for name, value in options.items() if name in taken}


def part_of(evaluation: Evaluation, names: Sequence[str]) -> Evaluation:
    """Return the plan of one part, without the features that its metrics do not need."""
    if list(names) == evaluation.metrics:
        return evaluation
    real = evaluation.real
    if not {*QUALITY, *COSTS, "reconstruction_fid"} & set(names):
        real = real.bare()
    asked = replace(evaluation.asked, metrics=",".join(names))
    return replace(evaluation, metrics=list(names), real=real, asked=asked)
