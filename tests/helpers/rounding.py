"""How far apart two orders of the same float32 arithmetic may come: processors and thread counts choose the order.

Tests compare in float64 where the code computes in it. Where the code computes in float32, the bound is derived:
`gamma` of the number of roundings, times the size of what is rounded.
"""

import torch


def gamma(count):
    """Bound the relative error of `count` float32 roundings, each upon the last (Higham 2002, lemma 3.1)."""
    rounding = count * torch.finfo(torch.float32).eps / 2
    return rounding / (1 - rounding)
