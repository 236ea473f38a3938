"""Train `digitnet-mnist`, on one thread in about a minute, the same weights each time on the same machine.

    python -m hfgen_extractors.digitnet_training ylecun/mnist digitnet.safetensors

AdamW and a one-cycle learning rate (Smith & Topin 2018, arXiv:1708.07120), images shifted by up to two pixels; the
last 10,000 training images are left out for validation accuracy, by which nothing is chosen.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from hfgen import UsageError, decode_images, load_images
from hfgen_extractors.digitnet import DigitNet

TRAINED, EPOCHS, BATCH = 50_000, 8, 128


def train(images: Tensor, labels: Tensor, seed: int = 0) -> DigitNet:
    """Train a classifier of images (N, 1, 28, 28), uint8; its buffers are not set yet."""
    torch.manual_seed(seed)
    model = DigitNet().train()
    steps = TRAINED // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * steps, pct_start=0.25)
    for _ in range(EPOCHS):
        order = torch.randperm(TRAINED)
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            loss = cross_entropy(model.classify(model(shifted(images[rows]))), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def shifted(images: Tensor) -> Tensor:
    """Roll four groups of images by up to two pixels either way: digits do not touch the border."""
    moves = torch.randint(-2, 3, (4, 2)).tolist()
    return torch.cat([part.roll(move, (2, 3)) for part, move in zip(images.chunk(4), moves, strict=True)])


@torch.no_grad()
def standardize(model: DigitNet, images: Tensor) -> None:
    """Set the buffers by which the features get mean 0 and deviation 1 on these images."""
    features = torch.cat([model.hidden(part) for part in images.split(500)]).double()
    model.mean.copy_(features.mean(0))
    model.std.copy_(features.std(0))


@torch.no_grad()
def accuracy(model: DigitNet, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of the images that are classified correctly."""
    found = torch.cat([model.classify(model(part)).argmax(1) for part in images.split(500)])
    return float((found == labels).double().mean())


def _labels(images: Any) -> Tensor:
    if images.labels is None:
        raise UsageError("The dataset has no labels to learn; give one with a column of classes.")
    return images.labels


def main(dataset: str, output: str) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    sets = {split: load_images(dataset, split) for split in ("train", "test")}
    pixels = {split: decode_images(images, 28, center_crop=True) for split, images in sets.items()}
    labels = {split: _labels(images) for split, images in sets.items()}
    model = train(pixels["train"], labels["train"])
    standardize(model, pixels["train"])
    print(f"validation {accuracy(model, pixels['train'][TRAINED:], labels['train'][TRAINED:]):.4f}")
    print(f"test       {accuracy(model, pixels['test'], labels['test']):.4f}")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, output)
    data = Path(output).read_bytes()
    print(f"{output}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
