"""Flows with random weights, and random tensors in float64, the same at each call."""

import torch

from hfgen_flow.bijections import ActNorm


def scrambled(module, scale=0.1, seed=0):
    """With random weights, and actnorms that count as initialized."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return initialized(module)


def initialized(module):
    for part in module.modules():
        if isinstance(part, ActNorm):
            part.initialized.fill_(True)
    return module


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
