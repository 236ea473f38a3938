"""Options of a model's own, of its call and its scheduler: checked by signatures before its weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from hfgen.commands.pipelines import scheduler_named
from hfgen.errors import UsageError
from hfgen.settings.options import signature_of
from hfgen.settings.resolve import check_options
from hfgen.settings.signatures import own_options, typed_texts, unknown_option


@dataclass(frozen=True)
class Chosen:
    """Options of a model's own, as the types that their signatures annotate.

    Attributes:
        call: of the pipeline's call, or of another method.
        scheduler: settings of its scheduler.
    """

    call: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)


def chosen_options(target: str, o: Mapping[str, Any], method: str = "sample") -> Chosen:
    """Check the options that are not the command's own by the signatures of the target's classes.

    A name that the method does not take, but the scheduler does, is a setting of the scheduler: `--temperature 0.7`.

    Args:
        o: the options `own`, `dotted`, `scheduler`, `variant` and `revision`.
        method: what is called: `sample`, or `decode` for a latent walk.

    Raises:
        UsageError: an option that neither takes, or a value of another type.
    """
    own, settings = o["own"], o["dotted"].get("scheduler", {})
    if not own and not settings:
        return Chosen()
    from hfgen.evaluation.any_pipeline import classes_at

    pipeline_class, scheduler_class = classes_at(target, revision=o["revision"], variant=o["variant"])
    if scheduler_class is not None and o["scheduler"]:
        scheduler_class = scheduler_named(scheduler_class, o["scheduler"])
    method = method if hasattr(pipeline_class, method) else "__call__"
    taken = own_options(pipeline_class, method)
    of_scheduler = {} if scheduler_class is None else signature_of(scheduler_class)
    for name in own:
        if name not in taken and name not in of_scheduler:
            who = f"{'a latent walk of ' if method == 'decode' else ''}{pipeline_class.__name__}"
            commands = [str(parameter.name) for parameter in click.get_current_context().command.params]
            error = unknown_option(name, who, taken, [*commands, *of_scheduler])
            raise UsageError(f"{error}\n`hfgen info {target}` lists the options of this model and of its scheduler.")
    if settings and scheduler_class is None:
        raise UsageError(f"--scheduler.{next(iter(settings))}: a {pipeline_class.__name__} has no scheduler.")
    short = typed_texts(of_scheduler, {name: text for name, text in own.items() if name not in taken})
    dotted = {} if scheduler_class is None else check_options(scheduler_class, settings, "--scheduler")
    return Chosen(typed_texts(taken, {n: text for n, text in own.items() if n in taken}), {**short, **dotted})
