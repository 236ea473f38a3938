"""What the values of `mnist-v1` mean: real images spoilt in known ways, and the time that the metrics take.

    python benchmarks/metric_scale.py --dataset_name ylecun/mnist

The reference is MNIST's 10,000 test images; what is compared with it are 10,000 training images, drawn at random and
spoilt. Values hold for the weights of `digitnet-mnist`, the order for any good extractor.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, shift
from torch import Tensor

from hfgen import load_images
from hfgen.evaluation.real_images import RealImages, features_of
from hfgen.evaluation.sample_metrics import authenticity, fid, inception_score, kid, manifold
from hfgen_extractors.digitnet import DigitNet

COUNT, RESULT = 10_000, Path(__file__).parent / "results" / "metric_scale.md"
Pixels = np.ndarray


def spoilt(x: Pixels, y: np.ndarray) -> dict[str, Callable[[], Pixels]]:
    """Name -> images in 0 ... 255, of x (N, 28, 28) with the classes y."""
    rng = np.random.default_rng(0)
    class_means = np.stack([x[y == k].mean(0) for k in range(10)])
    return {
        "train copies": lambda: x,
        "+ noise .05": lambda: x + rng.normal(0, 0.05 * 255, x.shape),
        "binarized at .5": lambda: 255.0 * (x > 127.5),
        "no class 8": lambda: x[rng.choice(np.flatnonzero(y != 8), COUNT)],
        "100 images repeated": lambda: np.tile(x[:100], (COUNT // 100, 1, 1)),
        "shifted 1 px": lambda: shift(x, (0, 1, 1), order=0),
        "blur sigma .7": lambda: gaussian_filter(x, (0, 0.7, 0.7)),
        "+ noise .2": lambda: x + rng.normal(0, 0.2 * 255, x.shape),
        "shifted 3 px": lambda: shift(x, (0, 3, 3), order=0),
        "blur sigma 1": lambda: gaussian_filter(x, (0, 1, 1)),
        "PPCA-50 samples": lambda: ppca(x, 50, rng),
        "class mean images": lambda: class_means[y],
        "inverted": lambda: 255 - x,
        "only class 1": lambda: x[rng.choice(np.flatnonzero(y == 1), COUNT)],
        "uniform noise": lambda: rng.uniform(0, 255, x.shape),
        "mean image": lambda: np.broadcast_to(x.mean(0), x.shape),
        "black": lambda: 0 * x,
    }


def ppca(x: Pixels, components: int, rng: np.random.Generator) -> Pixels:
    """Samples of probabilistic PCA (Tipping & Bishop 1999, eq. 7), fitted to these images."""
    flat = x.reshape(len(x), -1)
    mean = flat.mean(0)
    variances, axes = np.linalg.eigh(np.cov(flat, rowvar=False))
    noise = variances[:-components].mean()
    weights = axes[:, -components:] * np.sqrt(variances[-components:] - noise)
    drawn = rng.normal(size=(len(x), components)) @ weights.T + rng.normal(0, np.sqrt(noise), flat.shape)
    return (mean + drawn).reshape(x.shape)


def row(name: str, extractor: DigitNet, real: Tensor, images: Pixels) -> tuple[str, dict[str, float]]:
    """A line of the table, and the seconds that each metric took."""
    seconds: dict[str, float] = {}

    def timed(what: str, function: Callable[[], object]) -> object:
        start = time.process_time()
        value = function()
        seconds[what] = time.process_time() - start
        return value

    pixels = torch.from_numpy(images.clip(0, 255).round().astype(np.uint8))[:, None]
    features = timed("features", lambda: torch.cat([extractor.extract(part) for part in pixels.split(500)]))
    d = timed("FID", lambda: fid(real, features, bootstraps=100))
    k = timed("KID", lambda: kid(real, features, 1000))
    with torch.inference_mode():
        s = timed("IS", lambda: inception_score(extractor.classify(features)))
    m = timed("precision ... coverage", lambda: manifold(real, features, 5, 5000))
    cells = [f"{d.value:.3g} +- {d.error:.2g}", f"{1000 * k.value:.3g} +- {1000 * k.error:.2g}", f"{s.value:.2f}"]
    return f"| {name} | " + " | ".join([*cells, *(f"{e.value:.3f}" for e in m.values())]) + " |", seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_name", default="ylecun/mnist")
    data = parser.parse_args().dataset_name
    torch.set_num_threads(1)
    extractor = DigitNet.load()
    reference, train = (RealImages.of(load_images(data, split)) for split in ("test", "train"))
    real, train_features = features_of(reference, extractor), features_of(train, extractor)
    chosen = np.random.default_rng(0).permutation(len(train.pixels))[:COUNT]
    x, y = train.pixels[chosen, 0].numpy().astype(np.float64), load_images(data, "train").labels[chosen].numpy()
    draws = [train_features[torch.randperm(len(train_features))[:COUNT]] for _ in range(20)]
    floors = torch.tensor([fid(real, rows).value for rows in draws])
    lines = [
        "| images | FID | 1000 x KID | IS | precision | recall | density | coverage |",
        "|---|---|---|---|---|---|---|---|",
        f"| floor: random {COUNT:,} of train, 20 draws | {floors.mean():.3f} +- {floors.std():.3f} | | | | | | |",
    ]
    print("\n".join(lines), flush=True)
    for name, make in spoilt(x, y).items():
        line, seconds = row(name, extractor, real, make())
        lines.append(line)
        print(line, flush=True)
    start = time.process_time()
    baseline = authenticity(train_features, real)
    seconds["authenticity, among 60,000"] = time.process_time() - start
    copies = authenticity(train_features, train_features[:1000])
    told = ", ".join(f"{what} {value:.2f}" for what, value in seconds.items())
    lines += ["", f"Authenticity among 60,000: real test images {baseline.value:.3f}, copies {copies.value:.3f}."]
    lines += [f"CPU-seconds for {COUNT:,} images, one thread: {told}."]
    print("\n".join(lines[-2:]))
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
