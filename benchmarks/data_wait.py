"""How much of its time a training waits for data: 20,000 JPEGs of 256 pixels, decoded by two worker processes.

    python benchmarks/data_wait.py [--steps 60] [--images 20000]

A small network (DCGAN of 64 pixels) trains on images that do not stay in memory. It writes the seconds from the start
of the process to its first step, and `data_wait` of the last lines of its metrics: the share of the time in which no
step was made for want of a batch.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from hfgen.run_folder import read_metrics

SIDE, DIFFERENT = 256, 200
RESULTS = Path(__file__).parent / "results"


def write_images(folder: Path, count: int) -> None:
    """Write photographs of noise that is smooth, as JPEGs of some 15 KB; each is there many times."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(DIFFERENT):
        small = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        file = io.BytesIO()
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    for number in range(count):
        (folder / f"{number:05}.jpg").write_bytes(contents[number % DIFFERENT])


def train(images: Path, run: Path, steps: int) -> float:
    """Train; return the seconds to the first step."""
    words = ["dcgan", "--dataset_name", str(images), "--resolution", "64", "--train_batch_size", "64"]
    words += ["--data_memory_limit", "0", "--dataloader_num_workers", "2", "--max_train_steps", str(steps)]
    words += ["--logging_steps", "10", "--validation_steps", "0", "--checkpointing_steps", "0"]
    words += ["--generator.base_channels", "32", "--discriminator.base_channels", "32", "--output_dir", str(run)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "hfgen", "train", *words], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    while not (read := read_metrics(run) if (run / "metrics.jsonl").is_file() else []) and process.poll() is None:
        time.sleep(0.2)
    first = time.perf_counter() - started - (read[0]["seconds"] if read else 0)
    if process.wait():
        raise SystemExit("The training failed.")
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=20_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        images, run = Path(name) / "images", Path(name) / "run"
        images.mkdir()
        write_images(images, asked.images)
        first = train(images, run, asked.steps)
        lines = read_metrics(run)
    waits = [line["data_wait"] for line in lines]
    found = {
        "images": asked.images,
        "steps": asked.steps,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "seconds_to_first_step": round(first, 1),
        "data_wait_of_the_first_10_steps": waits[0],
        "data_wait_after_them": round(sum(waits[1:]) / max(1, len(waits) - 1), 4),
        "images_per_second": lines[-1]["images_per_second"],
    }
    rows = "".join(f"| {key.replace('_', ' ')} | {value} |\n" for key, value in found.items())
    command = f"python benchmarks/data_wait.py --steps {asked.steps} --images {asked.images}"
    notes = f"\n{time.strftime('%Y-%m-%d')}: `{command}`. `load` is that of the machine: other work ran beside it.\n"
    (RESULTS / "data_wait.md").write_text(f"| | |\n|---|---|\n{rows}{notes}")
    print(rows)


if __name__ == "__main__":
    main()
