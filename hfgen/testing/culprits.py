"""Words for laws that fail: which weight, which argument, by how much."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from torch import Tensor, nn

from hfgen.errors import UsageError


def assert_near(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Assert that two tensors differ by at most `tolerance`; the message has `what`, and by how much they do."""
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    difference = float((found.double() - expected.double()).abs().max())
    assert difference <= tolerance, f"{what}: they differ by {difference:.2g}, and {tolerance:g} is allowed"


def assert_apart(one: Tensor, other: Tensor, tolerance: float, what: str) -> None:
    """Assert that two tensors differ by more than `tolerance`."""
    difference = float((one.double() - other.double()).abs().max())
    assert difference > tolerance, f"{what}: they differ by {difference:.2g}, which is no more than rounding"


def refused(call: Callable[[], Any], words: str, what: str) -> None:
    """Assert that a call raises a UsageError that matches `words`; the message begins with `what`."""
    try:
        call()
    except UsageError as error:
        if not re.search(words, str(error)):
            pytest.fail(f"{what}: the UsageError does not match {words!r}: {error}")
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__} instead of a UsageError: {error}")
    else:
        pytest.fail(f"{what}: accepted; a UsageError was expected")


def named_parameters(models: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Collect the parameters that train, as `component.name`."""
    return {
        f"{component}.{name}": parameter
        for component, model in models.items()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def follow_gradients(models: Mapping[str, nn.Module]) -> dict[str, float]:
    """Return name -> the largest element of a parameter's gradients, which fills as the networks train."""
    largest: dict[str, float] = {}

    def follow(name: str, parameter: nn.Parameter) -> None:
        def note(parameter: Tensor) -> None:
            assert parameter.grad is not None
            largest[name] = max(largest.get(name, 0.0), float(parameter.grad.abs().max()))

        parameter.register_post_accumulate_grad_hook(note)

    for name, parameter in named_parameters(models).items():
        follow(name, parameter)
    return largest


def describe_unchanged(names: Iterable[str], weights: Mapping[str, Tensor], gradients: Mapping[str, float]) -> str:
    """Say of each weight that a training left as it was which shape it has, and which gradient it got."""
    lines = []
    for name in names:
        found = f"its largest gradient is {gradients.get(name, 0):.2g}"
        if not gradients.get(name):
            found = "its gradient is always 0" if name in gradients else "no update gave it a gradient"
        lines.append(f"{name} {tuple(weights[name].shape)}: {found}")
    return "\n".join(lines)
