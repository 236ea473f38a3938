"""Declarations of an objective are held against the arguments before the first step."""

import contextlib
from collections.abc import Iterator

from hfgen.errors import UsageError
from hfgen.objective import Objective
from hfgen.settings.arguments import TrainingArguments

NOT_COMPILED = (
    "--torch_compile cannot compile a second derivative, and {} differentiates a gradient of a network.\n"
    "Train without --torch_compile; or let the objective differentiate `unwrapped(network)`, which is not compiled."
)


def require_suited(objective: Objective, arguments: TrainingArguments) -> None:
    """Check that the arguments train what the objective defines.

    Raises:
        UsageError: they would split the batch of a coupled loss, or compile what is differentiated twice.
    """
    name, micro = type(objective).__name__, arguments.gradient_accumulation_steps
    if objective.coupled and micro > 1:
        raise UsageError(
            f"--gradient_accumulation_steps is {micro}, but the loss of {name} couples the images of a batch: the "
            f"mean over\n{micro} micro-batches is not the loss of one batch. Leave it out and give a larger "
            "--train_batch_size, or more processes."
        )
    if objective.differentiates_twice and arguments.torch_compile:
        raise UsageError(NOT_COMPILED.format(name))


@contextlib.contextmanager
def explained(arguments: TrainingArguments) -> Iterator[None]:
    """Explain torch's errors about second derivatives of what is compiled, where an objective did not declare them."""
    try:
        yield
    except RuntimeError as error:
        if arguments.torch_compile and ("donated buffer" in str(error) or "double backward" in str(error)):
            raise UsageError(NOT_COMPILED.format("the objective")) from error
        raise
