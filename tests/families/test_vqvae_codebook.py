"""The codebook of a VQ-VAE: the nearest code, moving averages, codes that start anew."""

import pytest
import torch

from hfgen_vae.codebook import perplexity, smoothed
from hfgen_vae.vqvae import VectorQuantizer


def test_the_nearest_code():
    """Against the distances of all pairs."""
    torch.manual_seed(0)
    quantizer, z_e = VectorQuantizer(37, 5), torch.randn(3, 5, 4, 6) * 2
    z_q, codes = quantizer(z_e)
    distances = torch.cdist(z_e.permute(0, 2, 3, 1).reshape(-1, 5).double(), quantizer.codebook.double())
    assert torch.equal(codes, distances.argmin(1).view(3, 4, 6))
    torch.testing.assert_close(z_q[2, :, 1, 3], quantizer.codebook[codes[2, 1, 3]])
    torch.testing.assert_close(z_q, quantizer.embed(codes))


def test_the_gradient_passes_straight_through():
    torch.manual_seed(0)
    quantizer, z_e = VectorQuantizer(8, 3), torch.randn(2, 3, 4, 4, requires_grad=True)
    quantizer.codebook.requires_grad_()
    weights = torch.randn_like(z_e)
    (quantizer(z_e)[0] * weights).sum().backward()
    assert torch.equal(z_e.grad, weights)
    assert quantizer.codebook.grad is None


def test_averages_against_a_loop():
    """Eqs. 6 to 8 of the paper's appendix with Laplace smoothing, number by number."""
    torch.manual_seed(0)
    k, d, decay, epsilon = 4, 3, 0.9, 0.5
    quantizer = VectorQuantizer(k, d, decay, epsilon, restart_threshold=0.0)
    n, m = [0.0] * k, [[0.0] * d for _ in range(k)]
    for _ in range(5):
        counts, sums = torch.randint(1, 6, (k,)).float(), torch.randn(k, d)
        assert quantizer.update(counts, sums, torch.zeros(1, d)) == 0
        for i in range(k):
            n[i] = decay * n[i] + (1 - decay) * counts[i].item()
            m[i] = [decay * m[i][j] + (1 - decay) * sums[i, j].item() for j in range(d)]
        total = sum(n)
        for i in range(k):
            smooth = (n[i] + epsilon) / (total + k * epsilon) * total
            expected = torch.tensor([m[i][j] / smooth for j in range(d)])
            torch.testing.assert_close(quantizer.codebook[i], expected)


def test_the_first_step_leaves_no_trace_of_the_random_codebook():
    """m and N have the same bias towards their start, so e_k is the mean of its vectors from the first step on."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(2, 3)
    counts, sums = torch.tensor([4.0, 8.0]), torch.randn(2, 3)
    quantizer.update(counts, sums, torch.zeros(1, 3))
    torch.testing.assert_close(quantizer.codebook, sums / counts[:, None], rtol=1e-3, atol=1e-5)


def test_smoothing_keeps_the_sum():
    counts = torch.tensor([0.0, 1.0, 7.0])
    torch.testing.assert_close(smoothed(counts, 1e-5), counts, atol=1e-4, rtol=0)
    assert smoothed(counts, 10.0).sum().item() == pytest.approx(8)


@pytest.mark.parametrize("count", [2, 512])
def test_perplexity(count):
    one = torch.zeros(count)
    one[1] = 7
    assert perplexity(torch.full((count,), 3)).item() == pytest.approx(count, rel=1e-4)
    assert perplexity(one).item() == pytest.approx(1)


def test_a_dead_code_starts_anew_at_a_candidate():
    """Below the threshold only; the i-th dead code takes the i-th candidate; those without one wait."""
    quantizer = VectorQuantizer(6, 2, decay=0.5, restart_threshold=0.5)
    quantizer.counts.copy_(torch.tensor([10.0, 0.1, 10.0, 0.2, 0.1, 10.0]))
    quantizer.sums.copy_(quantizer.counts[:, None] * torch.arange(6.0)[:, None].expand(6, 2))
    counts = quantizer.counts.clone()
    candidates = torch.tensor([[-7.0, -7.0], [-8.0, -8.0]])
    restarted = quantizer.update(counts, quantizer.sums.clone(), candidates)
    expected = torch.tensor([0.0, -7.0, 2.0, -8.0, 4.0, 5.0])[:, None].expand(6, 2)
    torch.testing.assert_close(quantizer.codebook, expected, rtol=1e-3, atol=1e-3)
    assert restarted == quantizer.num_restarts == 2
    assert quantizer.counts[1] == quantizer.counts[3] == counts.mean()
    assert quantizer.counts[4] == counts[4]


def test_a_code_that_was_never_used_is_always_replaced():
    quantizer = VectorQuantizer(3, 2, restart_threshold=0.0)
    quantizer.update(torch.tensor([5.0, 0.0, 5.0]), torch.ones(3, 2) * 5, torch.tensor([[2.0, 3.0]]))
    torch.testing.assert_close(quantizer.codebook[1], torch.tensor([2.0, 3.0]), rtol=1e-3, atol=0)
    quantizer.update(torch.tensor([5.0, 0.0, 5.0]), torch.ones(3, 2) * 5, torch.tensor([[9.0, 9.0]]))
    assert quantizer.num_restarts == 1


def test_it_finds_clusters_far_from_where_it_starts():
    """Eight clusters around points of size 100, a first codebook around 0: every cluster ends with a code inside."""
    torch.manual_seed(0)
    quantizer, centers = VectorQuantizer(32, 3), torch.randn(8, 3) * 100
    for _ in range(60):
        vectors = centers[torch.randint(8, (256,))] + torch.randn(256, 3) * 0.1
        codes = quantizer.nearest(vectors[:, :, None, None]).flatten()
        hot = torch.nn.functional.one_hot(codes, 32).float()
        quantizer.update(hot.sum(0), hot.T @ vectors, vectors)
    assert torch.cdist(centers, quantizer.codebook).min(1).values.max() < 0.5
