"""The diffusion of Gaussian data, of which all is known in closed form, and noise that makes expectations exact."""

import numpy as np
import torch

from hfgen_diffusion import bound
from hfgen_diffusion.process import ForwardProcess

S = 0.5  # standard deviation of the data


class GaussianDenoiser:
    """The optimal network for data N(0, s²), whatever the process predicts; linear in x.

    Args:
        v: what it says of the variance, where the process learns that: a number, or a function of t.
    """

    def __init__(self, process, s=S, v=None):
        self.process, self.s, self.v = process, s, v
        alphas = process.alphas_cumprod[:-1]
        self.log_sigmas = (0.5 * (1 / alphas - 1).log()).numpy()

    def __call__(self, x, t):
        alpha = self.alpha_bar(t)
        alpha = alpha.view(-1, *[1] * (x.ndim - 1)) if alpha.ndim else alpha
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        variance = alpha * self.s**2 + 1 - alpha
        x0, epsilon = signal * self.s**2 / variance * x.double(), noise / variance * x.double()
        output = {"epsilon": epsilon, "sample": x0, "v_prediction": signal * epsilon - noise * x0}
        found = output[self.process.prediction_type].to(x.dtype)
        if self.v is None:
            return found
        v = self.v(t) if callable(self.v) else torch.as_tensor(self.v)
        v = v.to(x.dtype)
        return torch.cat([found, (v.view(-1, *[1] * (x.ndim - 1)) if v.ndim else v).expand_as(found)], dim=1)

    def alpha_bar(self, t):
        """At the levels from the table; between them t is linear in ln σ."""
        if not t.is_floating_point():
            return self.process.alphas_cumprod[t]
        log_sigma = np.interp(t.double().numpy(), np.arange(len(self.log_sigmas)), self.log_sigmas)
        return torch.sigmoid(torch.as_tensor(-2 * log_sigma, dtype=torch.float64))


def best_variance(process, s=S):
    """t -> v at which the learned variance is that of x_{t-1} given x_t alone, which is Gaussian here."""

    def v(t):
        a_t, before = process.alphas_cumprod[t], torch.where(t > 0, process.alphas_cumprod[(t - 1).clamp(min=0)], 1.0)
        given = (before * s**2 + 1 - before) * (1 - a_t / before) / (a_t * s**2 + 1 - a_t)
        small, large = (log_variance_of(process, t, end) for end in (-1.0, 1.0))
        return 2 * (given.log() - small) / (large - small) - 1

    return v


def log_variance_of(process, t, v):
    return bound.log_variance(process, t, torch.full((len(t), 1, 1, 1), v)).flatten()


def uniform_in_log_snr(scheduler_class, count, highest=1e4, lowest=1e-5, **config):
    """A scheduler whose T levels are equally far apart in ln(ᾱ / (1 - ᾱ))."""
    alphas = torch.sigmoid(torch.linspace(np.log(highest), np.log(lowest), count, dtype=torch.float64))
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    return scheduler_class(num_train_timesteps=count, trained_betas=betas.tolist(), **config)


class GivenNoise:
    """The same normal numbers in every draw, and the same uniform ones.

    With x_0 = ±s and ε = ±1 in all four pairs, the mean of anything quadratic in both is its expectation.
    """

    def __init__(self, normal, uniform=None):
        self.given, self.given_uniform = normal, uniform

    def __len__(self):
        return len(self.given)

    def normal(self, *shape):
        return self.given.expand(len(self.given), *shape)

    def uniform(self, *shape):
        return self.given_uniform.expand(len(self.given), *shape)


class Impulses:
    """1 for image k in draw k and 0 for all others: of a linear sampler, image k is then the weight of draw k."""

    def __init__(self, count):
        self.count, self.draws = count, 0

    def __len__(self):
        return self.count

    def normal(self, *shape):
        self.draws += 1
        found = torch.zeros(self.count, *shape, dtype=torch.float64)
        found[self.draws] = 1
        return found


def spread(sampler, num_draws):
    """Standard deviation, exactly, of what a linear sampler makes of N(0, 1) and as many draws of N(0, 1)."""
    x = torch.zeros(num_draws + 1, 1, 1, 1, dtype=torch.float64)
    x[0] = 1
    return float(sampler(x, Impulses(num_draws + 1)).square().sum().sqrt())


def four_pairs(count=1, s=S):
    """x_0 and ε, each (4 count, 1, 1, 1): all pairs of signs, `count` times each."""
    x0, epsilon = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    return s * x0.repeat(count).view(-1, 1, 1, 1), epsilon.repeat(count).view(-1, 1, 1, 1)


class Float64Process(ForwardProcess):
    """A process whose x_t and predictions are in float64, and so agree with closed forms to all their digits."""

    def scales(self, t):
        alpha = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()


def process_of(scheduler_class, **config):
    return Float64Process(scheduler_class(**config))
