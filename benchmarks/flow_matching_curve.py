"""FD against training seconds of flow matching and diffusion, by their networks, on MNIST.

    python benchmarks/flow_matching_curve.py jit --minutes 5,10,20
    python benchmarks/flow_matching_curve.py unet --minutes 5,10,20
    python benchmarks/flow_matching_curve.py ddpm --minutes 5,10,20

FD is the Fréchet distance of so many images, of the EMA weights, from the 10,000 test images in the features of
`digitnet-mnist`, as in the protocol mnist-v1 but with fewer images, of which it is higher: compare within the table.
Images are drawn at each of `--calls` network calls, by Heun's method, or of a DDPM by DDIM. Minutes are of CPU time of
all threads, divided by two, so of two cores that do nothing else; what is drawn in between does not count. Each of the
points is of one run with a constant learning rate, whose average is drawn; the recipe's ends with a falling one and is
better.
"""

import argparse
import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

import hfgen
from hfgen import HFGenPipeline, load_images
from hfgen.evaluation.sample_metrics import fid
from hfgen.registry import get_family
from hfgen.settings.resolve import resolve
from hfgen_extractors.digitnet import DigitNet

RESULTS = Path(__file__).parent / "results"
NAME = "flow_matching_curve"
CORES = 2
SEEDS = 250  # images drawn at once
JIT = {"class_name": "JiT", "patch_size": 7, "hidden_size": 128, "num_layers": 4, "num_attention_heads": 4}
UNET = {"class_name": "UNet2DModel", "block_out_channels": [32, 64, 64], "layers_per_block": 1}
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # name -> family, components, training arguments
    "jit": ("flow_matching", {"unet": JIT}, {"learning_rate": 2e-3, "ema_decay": 0.999}),
    "unet": ("flow_matching", {"unet": UNET}, {"learning_rate": 1e-3, "ema_decay": 0.999}),
    "ddpm": ("ddpm", {"unet": UNET}, {"learning_rate": 1e-3, "ema_decay": 0.999}),
}


def main() -> None:
    given = parse()
    torch.set_num_threads(CORES)
    family, components, arguments = RUNS[given.run]
    pipeline_class: Any = get_family(family).load()
    images = load_images(given.dataset_name)
    model = pipeline_class.build(images.resolution(), images.channels, **components)
    quiet = {"max_train_steps": 10**6, "checkpointing_steps": 0, "validation_steps": 0, "train_batch_size": 64}
    config = resolve([("benchmark", {**quiet, **arguments})], family, pipeline_class)
    real = features(load_images(given.dataset_name, "test"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = hfgen.Trainer(model, images, config.arguments, Path(folder))
        steps, wanted, outside = trainer.steps(), list(given.minutes), time.process_time()
        for step in steps:
            used = time.process_time() - outside
            if used < 60 * CORES * wanted[0]:
                continue
            before, wanted = time.process_time(), wanted[1:]
            for calls in given.calls:
                with trainer.networks.averaged() as pipeline:
                    found = fid(real, drawn(pipeline, calls, given.images)).value
                record(given, {"cpu_seconds": round(used), "steps": step, "calls": calls, "fd": round(found, 2)})
            outside += time.process_time() - before
            if not wanted:
                break
        steps.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--minutes", type=numbers, default=[1.0, 2.0, 5.0, 10.0, 20.0], help="Of two cores.")
    parser.add_argument("--calls", type=whole, default=[19], help="Network calls of an image, odd.")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--dataset_name", default="ylecun/mnist")
    return parser.parse_args()


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def whole(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@torch.no_grad()
def features(images: Any) -> torch.Tensor:
    """(N, 64)"""
    network, size = DigitNet.load(), 1000
    parts = (images.tensor(range(start, min(start + size, len(images)))) for start in range(0, len(images), size))
    return torch.cat([network(as_bytes(part)) for part in parts])


@torch.no_grad()
def drawn(pipeline: HFGenPipeline, calls: int, count: int) -> torch.Tensor:
    """Features of the images of seeds 0, 1, 2 ..."""
    pipeline.set_progress_bar_config(disable=True)
    heun = hasattr(pipeline, "interpolant")
    options: dict[str, Any] = {"solver": "heun", "num_inference_steps": (calls + 1) // 2}
    trained_with = pipeline.scheduler
    if not heun:
        pipeline.register_modules(scheduler=DDIMScheduler.from_config(trained_with.config))
        options = {"num_inference_steps": calls}
    network, found = DigitNet.load(), []
    for start in range(0, count, SEEDS):
        seeds = range(start, min(start + SEEDS, count))
        found.append(network(as_bytes(2 * pipeline(seeds=seeds, output_type="pt", **options).images - 1)))
    pipeline.register_modules(scheduler=trained_with)
    return torch.cat(found)


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def record(given: argparse.Namespace, line: dict[str, Any]) -> None:
    """A line of results/flow_matching_curve.json, replaced when measured again, and the table of all."""
    path, keys = RESULTS / f"{NAME}.json", ("run", "dataset", "minutes", "calls")
    minutes = round(line["cpu_seconds"] / 60 / CORES, 1)
    line = {"run": given.run, "dataset": Path(given.dataset_name).name, "minutes": minutes, **line}
    line |= {"images": given.images, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")}
    print(line, flush=True)
    lines = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    lines = [old for old in lines if any(old[key] != line[key] for key in keys)] + [line]
    lines.sort(key=lambda found: [found[key] for key in keys])
    path.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    columns = ("run", "dataset", "minutes", "cpu_seconds", "steps", "calls", "fd", "images")
    rows = ["| " + " | ".join(str(found[name]) for name in columns) + " |" for found in lines]
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    (RESULTS / f"{NAME}.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
