"""Minibatch optimal transport: the noise of a batch is dealt out so that images and noise are near each other."""

import torch
from torch import Tensor


def transported(images: Tensor, noise: Tensor) -> Tensor:
    """Permute the noise so that Σ |x_i - ε_i|² is least (Tong et al. 2024, arXiv:2302.00482, section 3.2).

    The noise moves and not the images, which so keep their labels.

    Args:
        images, noise: of the whole batch, (N, ...).
    """
    from scipy.optimize import linear_sum_assignment  # takes long to import, and few trainings ask for it

    cost = torch.cdist(images.detach().flatten(1).double(), noise.flatten(1).double()).square()
    return noise[torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=noise.device)]


def own_rows(rows: Tensor, count: int) -> Tensor:
    """The rows of this process, `count` of them, of those of all processes."""
    world = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = torch.distributed.get_rank() * count if world else 0
    return rows[first : first + count]
