"""Rational-quadratic splines: they rise, pass their knots, and are inverted exactly."""

import pytest
import torch
from flow_cases import normal, uniform

from hfgen_flow.splines import inverse_spline, knots, spline


def spline_parameters(count, num_bins=5, scale=3.0):
    return normal(count, 3 * num_bins - 1, seed=4) * scale


def test_the_zero_spline_is_the_identity():
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    y, log_slope = spline(x, torch.zeros(801, 23, dtype=torch.float64), 3.0)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_splines_rise_and_have_the_slope_that_they_say(scale):
    """Against autograd; at the bound they meet the identity, in value and slope."""
    for parameters in spline_parameters(20, scale=scale):
        x = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64, requires_grad=True)
        y, log_slope = spline(x, parameters.expand(2001, -1), 2.0)
        assert (y.diff() > 0).all()
        assert torch.equal(y[x.abs() > 2], x[x.abs() > 2])
        assert (log_slope[x.abs() > 2] == 0).all()
        slope = torch.autograd.grad(y.sum(), x)[0]
        torch.testing.assert_close(log_slope, slope.log(), rtol=0, atol=1e-9)
        ends = torch.tensor([-2.0, 2.0], dtype=torch.float64)
        for inside in (ends, ends * (1 - 1e-12)):
            y, log_slope = spline(inside, parameters.expand(2, -1), 2.0)
            torch.testing.assert_close(y, ends, rtol=0, atol=1e-9)
            torch.testing.assert_close(log_slope, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_bins", [2, 3, 8, 32])
def test_splines_pass_their_knots(num_bins):
    """With the slopes there, from either side; the inverse is one at the knots too."""
    parameters = spline_parameters(10, num_bins)
    xs, ys, slopes = knots(parameters, 3.0)
    assert (xs.diff(dim=-1) > 0).all()
    assert (ys.diff(dim=-1) > 0).all()
    assert (xs[:, [0, -1]] == torch.tensor([-3, 3])).all()
    assert (slopes[:, [0, -1]] == 1).all()
    each = parameters[:, None].expand(-1, num_bins + 1, -1)
    y, log_slope = spline(xs, each, 3.0)
    torch.testing.assert_close(y, ys, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_slope.exp(), slopes, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(inverse_spline(ys, each, 3.0), xs, rtol=0, atol=1e-9)
    for side in (-1e-12, 1e-12):
        y, log_slope = spline(xs[:, 1:-1] + side, each[:, 1:-1], 3.0)
        torch.testing.assert_close(y, ys[:, 1:-1], rtol=0, atol=1e-9)
        torch.testing.assert_close(log_slope.exp(), slopes[:, 1:-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("num_bins", [2, 8])
def test_splines_are_inverted_with_extreme_parameters(num_bins, dtype, tolerance):
    """Of +-20: bins and slopes as small as they get, beside the largest."""
    signs = uniform(400, 3 * num_bins - 1, seed=5) < 0.5
    parameters = torch.where(signs, 20.0, -20.0).to(dtype)[:, None].expand(-1, 61, -1)
    x = torch.linspace(-3.3, 3.3, 61, dtype=dtype).expand(400, -1)
    y, log_slope = spline(x, parameters, 3.0)
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    back = inverse_spline(y, parameters, 3.0)
    error = (back - x).abs() * log_slope.exp().clamp(max=1)  # slopes go down to e^-16: there y does not tell x
    assert error.max() <= tolerance
    if dtype == torch.float64:
        assert (back - x).abs().max() <= 1e-6
        assert (spline(back, parameters, 3.0)[0] - y).abs().max() <= tolerance
