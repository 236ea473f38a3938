"""Validation during a training: metrics on items that it does not train on, by the evaluation's own code."""

from collections.abc import Sequence
from typing import Any

from hfgen.errors import UsageError, did_you_mean
from hfgen.evaluation.extractors import extractor_class
from hfgen.evaluation.likelihoods import metric_names
from hfgen.evaluation.measure import measure, prepare
from hfgen.evaluation.real import Real
from hfgen.pipeline import HFGenPipeline
from hfgen.registry import modality_name, modality_of
from hfgen.results.metrics import METRICS, chosen
from hfgen.results.protocol import Protocol, list_protocols, read_protocol
from hfgen.settings.arguments import TrainingArguments
from hfgen.wrappers import eval_mode

PREFIX = "validation_"
NAME = "validation"


class HeldOut:
    """Validation items, and the metrics that are measured on them at each validation.

    `hfgen evaluate RUN/best --split SPLIT --num_images N` finds the same numbers, where it samples in as many steps;
    SPLIT is `held_out` for the items of `validation_fraction`.

    Args:
        items: those of `validation_split` or of `validation_fraction`.
        arguments: `validation_metrics`, `num_evaluation_images`, and what the modality's protocols have, such as
            `extractor` and `resolution`.
        metrics: of `wanted_metrics`.
        pipeline: the one that is trained.

    Raises:
        UsageError: the extractor does not take such items.
    """

    def __init__(self, items: Any, arguments: TrainingArguments, metrics: Sequence[str], pipeline: Any) -> None:
        self.items, self.metrics, modality = items, metrics, modality_of(pipeline)
        count = arguments.num_evaluation_images
        extractor = extractor_name(arguments) if any(METRICS[name].of_features for name in metrics) else None
        rules = {name: value for name, value in arguments.options.items() if name in modality.protocol_options}
        rules |= {"extractor": extractor} if "extractor" in modality.protocol_options else {}
        rules |= {"num_images": count, "likelihood_images": count, "modality": modality_name(pipeline)}
        self.protocol = Protocol.of(name=NAME, **rules)
        if any(METRICS[name].of_samples for name in metrics):
            modality.check_wanted(self.protocol, metrics, items)
        # loaded now, so that an error of its weights comes before the training
        self.extractor = None if extractor is None else extractor_class(extractor).load()
        self.real: Real | None = None

    def measure(self, pipeline: HFGenPipeline, options: dict[str, Any]) -> dict[str, float]:
        """`validation_bits_per_dim`, `validation_fid` and the like; in the main process alone.

        Args:
            options: of the pipeline's call.
        """
        if self.real is None:
            real = modality_of(pipeline).reference(self.items, pipeline, self.protocol)
            self.real = prepare(real, lambda: None, pipeline, self.protocol, self.metrics, extractor=self.extractor)
        with eval_mode(pipeline.models().values()):
            measured = measure(pipeline, self.real, self.protocol, self.metrics, options=options, alone=True)
        values, _ = measured or ({}, None)
        return {PREFIX + name: estimate.value for name, estimate in values.items()}


def wanted_metrics(pipeline: HFGenPipeline, arguments: TrainingArguments, model: str) -> list[str]:
    """The metrics that `validation_metrics` asks for, else the likelihoods that the family has.

    Raises:
        UsageError: it asks for an unknown metric, or one that this family does not have; or nothing can be measured;
            or `best_metric` is not among them.
    """
    likelihoods = metric_names(pipeline)
    modality = modality_of(pipeline)
    compared = [name for name, metric in modality.metrics.items() if metric.of_samples]
    wanted = {*likelihoods, *compared} - {*modality.train_metrics}
    possible = [name for name in METRICS if name in wanted]
    if arguments.validation_metrics is not None:
        found = chosen(arguments.validation_metrics, possible, "--validation_metrics")
    else:
        found = likelihoods
    if not found:
        raise UsageError(
            f"{model} has no likelihood to measure on the validation {modality.noun[1]}.\n"
            f"Ask for a metric of sampled {modality.noun[1]}: --validation_metrics {(compared or ['NAME'])[0]}; or "
            "leave --validation_split out."
        )
    best = arguments.best_metric
    if best is not None and (best not in found or METRICS[best].better is None):
        hint = did_you_mean(best, found)
        if pipeline.is_density and best == "bits_per_dim":
            hint = "\nIts likelihood is a density, which has nats and no bits per dimension."
        raise UsageError(f"--best_metric is {best!r}, which is not measured of {model}.{hint}")
    return found


def extractor_name(arguments: TrainingArguments) -> str:
    """The extractor that was asked for, else that of the protocol which is about this dataset.

    Raises:
        UsageError: neither is there.
    """
    if arguments.extractor is not None:
        return arguments.extractor
    for name in list_protocols():
        protocol = read_protocol(name)
        if protocol.extractor is not None and protocol.dataset == arguments.dataset_name:
            return protocol.extractor
    raise UsageError(
        "--validation_metrics compares an extractor's features, and no protocol is about this dataset.\n"
        "Name one: --extractor; `hfgen list extractors` shows them."
    )
