"""Training with a known answer: a Glow without couplings is a linear flow, and the best linear flow of MNIST is the
Gaussian of its mean and covariance, whose bits per dimension have a closed form.

    python benchmarks/flow_linear.py --dataset_name ylecun/mnist      # a few minutes; not a matter of time

The flow is hfgen's: `squeeze_factor` 28 makes every pixel a channel, one step of actnorm and a 784x784 convolution,
Glow's own preprocessing. Loss and gradients are its objective's. The matrix is moved along the relative gradient,
G W^T W (Cardoso & Laheld 1996, "Equivariant adaptive source separation"), which does not depend on how badly
conditioned the data are; actnorm's statistics are those of all training images. (tests/families/test_flows.py trains a
smaller one with Adam alone, by the Trainer.)
"""

import argparse
import datetime
import json
import math
from pathlib import Path

import torch
from report import fill_readme, write_linear
from tqdm import trange

from hfgen import load_images
from hfgen.noise import StepNoise
from hfgen.settings.options import build_objective
from hfgen_flow.glow import GlowPipeline

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="ylecun/mnist")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch_size", type=int, default=8192)
    options = parser.parse_args()
    splits = {split: load_images(options.dataset_name, split) for split in ("train", "test")}
    images = {split: found.tensor(range(len(found))) for split, found in splits.items()}
    pipeline = train(images["train"], options.steps, options.batch_size)
    lines = []
    for split, x in images.items():
        found = pipeline.log_likelihood(x[:10_000])
        line = {
            "split": split,
            "images": len(found.nats),
            "bits_per_dim": round(float(found.bits_per_dim.mean()), 4),
            "closed_form": round(gaussian_bits(images["train"], x[:10_000]), 4),
            "steps": options.steps,
            "batch_size": options.batch_size,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        }
        print(line)
        lines.append(line)
    (RESULTS / "flow_linear.json").write_text(json.dumps(lines, indent=2) + "\n")
    write_linear(RESULTS)
    fill_readme()


def train(x: torch.Tensor, steps: int, batch_size: int) -> GlowPipeline:
    """The linear flow of these images, (N, 1, S, S) in [-1, 1]."""
    torch.manual_seed(0)
    size = x.shape[-1]
    options = {"squeeze_factor": size, "num_levels": 1, "num_steps": 1, "coupling": "none"}
    options |= {"preprocessing": "glow", "convolution": "plain"}
    pipeline = GlowPipeline.build(size, 1, **{f"flow.{name}": value for name, value in options.items()})
    weight = pipeline.flow.levels[0].steps[0].mix.convolution.weight
    objective = build_objective(pipeline.objective_class, pipeline.components, {})
    pipeline.objective_class.initialize(pipeline, {"pixel_values": x}, StepNoise(0, 0, slice(0, len(x)), len(x)))
    for step in trange(steps):
        share = min(1.0, 10 / (1 + max(0, step - 0.6 * steps)))  # in the end a mean over many batches
        batch = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:batch_size]]
        objective.noise = StepNoise(0, step, slice(0, batch_size), batch_size)
        for update in objective.training_step({"pixel_values": batch}):
            update.loss.backward()
        move(weight, share)
    return pipeline


@torch.no_grad()
def move(weight: torch.Tensor, rate: float) -> None:
    """W <- W - rate (E[z z^T] - 1) W, damped by its largest eigenvalue; from the gradient of the loss in W."""
    w = weight.double()
    to_nats = len(w) * math.log(2)  # the loss is in bits per dimension
    relative = weight.grad.double() @ w.T * to_nats
    largest = torch.linalg.matrix_norm(relative + torch.eye(len(w)), 2)
    weight.copy_(w - rate / (1 + rate * largest) * relative @ w)
    weight.grad = None


def gaussian_bits(train_images: torch.Tensor, test_images: torch.Tensor) -> float:
    """Bits per dimension of dequantized bytes under the Gaussian of the training bytes, the expectation over the noise
    in closed form."""
    a, b = (((x.flatten(1).double() + 1) * 127.5).round() / 256 for x in (train_images, test_images))
    noise, dimensions = 1 / 12 / 256**2, a.shape[1]
    lower = torch.linalg.cholesky(torch.cov(a.T, correction=0) + noise * torch.eye(dimensions))
    z = torch.linalg.solve_triangular(lower, (b - a.mean(0)).T, upper=False)
    quadratic = z.square().sum(0).mean() + noise * torch.cholesky_inverse(lower).diagonal().sum()
    nats = 0.5 * (quadratic + dimensions * math.log(2 * math.pi)) + lower.diagonal().log().sum()
    return float(nats / dimensions / math.log(2) + 8)


if __name__ == "__main__":
    main()
