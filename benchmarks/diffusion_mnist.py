"""Sampling time of a trained diffusion and the error of its DDIM inversion, by numbers of steps.

    hfgen train ddpm-mnist --output_dir runs/ddpm-mnist
    python benchmarks/diffusion_mnist.py runs/ddpm-mnist

Seconds of a call for 16 images, median of 3 (1,000 steps: of 1), and the mean squared error per dimension, of images
scaled to [0, 1], of DDIM inversion and back on the first 8 test images, as table 2 of Song et al. 2021. Its likelihood
is measured by `hfgen evaluate`.
"""

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from report import fill_readme, write_diffusion

from hfgen import HFGenPipeline, load_images

RESULTS = Path(__file__).parent / "results"
STEPS = (10, 20, 50, 100, 1000)
BATCH = 16


def main() -> None:
    options = parse()
    pipeline = HFGenPipeline.from_pretrained(options.run)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.register_modules(scheduler=DDIMScheduler.from_config(pipeline.scheduler.config))
    images = load_images(options.dataset_name, "test").tensor(range(8))
    pipeline(batch_size=BATCH, num_inference_steps=min(STEPS), output_type="pt")  # the first call is slower
    for steps in STEPS:
        seconds = statistics.median(seconds_of(pipeline, steps) for _ in range(3 if steps < 1000 else 1))
        line = {"run": options.run.name, "num_inference_steps": steps, "seconds": round(seconds, 3)}
        record(line | {"reconstruction_mse": reconstruction_error(pipeline, images, steps)})
    write_diffusion(RESULTS)
    fill_readme()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--dataset_name", default="ylecun/mnist")
    return parser.parse_args()


def seconds_of(pipeline: HFGenPipeline, steps: int) -> float:
    start = time.perf_counter()
    pipeline(batch_size=BATCH, num_inference_steps=steps, output_type="pt").images.cpu()
    return time.perf_counter() - start


def reconstruction_error(pipeline: HFGenPipeline, images: torch.Tensor, steps: int) -> float:
    """Mean squared error per dimension, of images in [0, 1]."""
    latents = pipeline.encode(images, num_inference_steps=steps)
    back = pipeline.decode(latents, num_inference_steps=steps)
    return float(((back - images) / 2).square().mean())


def record(line: dict) -> None:
    """A line of results/diffusion_steps.json, replaced when measured again."""
    path = RESULTS / "diffusion_steps.json"
    lines = json.loads(path.read_text()) if path.is_file() else []
    print(line)
    line |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")}
    lines = [old for old in lines if any(old[name] != line[name] for name in ("run", "num_inference_steps"))] + [line]
    path.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
