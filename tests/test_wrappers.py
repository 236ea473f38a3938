"""Networks inside wrappers, and their derivatives along a direction."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from hfgen import directional_derivative, unwrapped


class Attention(nn.Module):
    """Of three inputs; with dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.inner, self.dropout = nn.Linear(4, 12), nn.Dropout(dropout)

    def forward(self, x, t, scale=1.0):
        q, k, v = self.inner(x + t[:, None, None]).chunk(3, dim=-1)
        return scale * self.dropout(scaled_dot_product_attention(q, k, v))


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return (torch.randn(2, 5, 4), torch.rand(2)), (torch.randn(2, 5, 4), torch.ones(2))


@pytest.mark.whole
def test_the_network_inside_what_is_compiled():
    network = nn.Linear(2, 1)
    assert unwrapped(network) is network
    assert unwrapped(torch.compile(network, backend="eager")) is network


@pytest.mark.whole
def test_a_second_derivative_of_the_network_inside_what_is_compiled():
    """As the gradient penalty of a critic; through the compiled network itself it is an error of torch's."""
    network, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(2, 3, requires_grad=True)
    compiled = torch.compile(network, backend="aot_eager")

    def penalty(within):
        gradient = torch.autograd.grad(within(x).sum(), x, create_graph=True)[0]
        return (compiled(x).sum() + gradient.square().sum(),)

    expected = torch.autograd.grad(penalty(network), network.parameters())
    found = torch.autograd.grad(penalty(unwrapped(compiled)), network.parameters())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(RuntimeError, match="donated buffer|double backward"):
        torch.autograd.grad(penalty(compiled), network.parameters())


@pytest.mark.whole
def test_the_derivative_is_that_of_autograd(inputs):
    network, (x, v) = Attention().double(), inputs
    x, v = tuple(t.double() for t in x), tuple(t.double() for t in v)
    expected = torch.autograd.functional.jvp(lambda *x: network(*x, scale=3.0), x, v)[1]
    exact, near = (directional_derivative(network, x, v, step, scale=3.0) for step in (None, 1e-2))
    torch.testing.assert_close(exact, expected)
    assert 0 < (near - expected).abs().max() < 1e-3 * expected.abs().max()
    assert not exact.requires_grad
    assert not near.requires_grad


def test_both_ends_of_a_difference_draw_the_same_dropout(inputs):
    """Else the difference of two masks is divided by 2h."""
    network, (x, v) = Attention(dropout=0.5), inputs
    derivative = directional_derivative(network, x, v, 1e-2)
    whole = directional_derivative(network.eval(), x, v, 1e-2)
    kept = derivative != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(derivative[kept], 2 * whole[kept], rtol=1e-3, atol=1e-4)
