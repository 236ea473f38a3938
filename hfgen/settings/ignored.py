"""Options of a training that have no effect without another one: to give one of them alone is refused.

This module imports no torch: they are looked at before anything else is.
"""

from collections.abc import Iterable, Sequence

from hfgen.errors import UsageError
from hfgen.settings.arguments import TrainingArguments

# Option -> others: without at least one of these it has no effect.
NEEDS: dict[str, tuple[str, ...]] = {
    "shuffle_buffer_size": ("streaming",),
    "overwrite_output_dir": ("output_dir",),
    "ema_decay": ("use_ema",),
    "ema_power": ("use_ema",),
    "ema_inv_gamma": ("ema_power",),
    "num_evaluation_images": ("validation_split", "validation_fraction"),
    "extractor": ("validation_metrics",),
    "checkpoints_total_limit": ("checkpointing_steps",),
    "hub_model_id": ("push_to_hub",),
    "hub_strategy": ("push_to_hub",),
    "hub_private_repo": ("push_to_hub",),
    "hub_token": ("push_to_hub",),
}
OF_OPTIMIZERS = {  # option -> that of an optimizer which it is the default of
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "adam_epsilon": "eps",
}
REPLACED = {"ema_decay": "ema_profiles"}  # option -> another one that takes its place


def refuse_ignored(given: Iterable[str], arguments: TrainingArguments, trained: Sequence[str] = ()) -> None:
    """Raise a UsageError of an option that was given by name and would have no effect.

    Args:
        given: names of options that one command line holds; those of files may stand there for other runs.
        arguments: what they became, together with the files.
        trained: components that have an optimizer.
    """
    chosen = [arguments.optimizer_of(component) for component in trained]
    for name in given:
        of = OF_OPTIMIZERS.get(name)
        if of and chosen and not any(options.takes(of) for options in chosen):
            classes = ", ".join(sorted({options.chosen for options in chosen}))
            raise UsageError(f"--{name} has no effect: no optimizer takes it, all are {classes}. Leave it out.")
        needed = NEEDS.get(name, ())
        if needed and not any(getattr(arguments, other) for other in needed):
            others = " or ".join(f"--{other}" for other in needed)
            raise UsageError(f"--{name} has no effect without {others}. Give it too, or leave --{name} out.")
        if name in REPLACED and getattr(arguments, REPLACED[name]):
            raise UsageError(f"--{name} has no effect beside --{REPLACED[name]}. Give one of them.")
