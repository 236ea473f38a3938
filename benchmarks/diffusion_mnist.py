"""What a trained diffusion is worth: likelihood two ways, sampling time and DDIM's reconstruction error by steps.

    hfgen train ddpm-mnist --output_dir runs/ddpm-mnist
    python benchmarks/diffusion_mnist.py runs/ddpm-mnist bound --num_images 10000 --num_timesteps 20
    python benchmarks/diffusion_mnist.py runs/ddpm-mnist ode --num_images 500
    python benchmarks/diffusion_mnist.py runs/ddpm-mnist steps

bound: the variational bound in bits per dimension; of the T - 1 KL divergences, one at random in each of so many
parts, the same expectation as of all. ode: the probability-flow ODE, an estimate. Both: image i of the test split has
the draws of seed i. steps: seconds of a call for 16 images, median of 3 (1,000 steps: of 1), and the mean squared
error per dimension, of images scaled to [0, 1], of DDIM inversion and back on the first 8 test images, as table 2
of Song et al. 2021. All are written into results/, and into the run's folder and card.
"""

import argparse
import datetime
import json
import time
from pathlib import Path

import torch
import yaml
from diffusers import DDIMScheduler, DDPMScheduler
from report import fill_readme, write_diffusion
from tqdm import tqdm

from hfgen import HFGenPipeline, load_images, run_folder
from hfgen.cards.card import write_card
from hfgen.data.images import Images
from hfgen.evaluation import likelihoods

RESULTS = Path(__file__).parent / "results"
STEPS = (10, 20, 50, 100, 1000)
BATCH = 16
METHODS = {"bound": "variational_bound", "ode": "probability_flow"}


def main() -> None:
    options = parse()
    pipeline = HFGenPipeline.from_pretrained(options.run)
    pipeline.set_progress_bar_config(disable=True)
    images = load_images(options.dataset_name, "test")
    if options.what == "steps":
        measure_steps(options.run, pipeline, images)
    else:
        measure_likelihood(options, pipeline, images)
    write_card(options.run)
    write_diffusion(RESULTS)
    fill_readme()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("what", choices=[*METHODS, "steps"])
    parser.add_argument("--dataset_name", default="ylecun/mnist")
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--num_timesteps", type=int, default=10, help="Of the bound, beside the level 0.")
    parser.add_argument("--variance_type", help="Of the bound: another than the model was saved with.")
    parser.add_argument("--num_ode_steps", type=int, default=50)
    return parser.parse_args()


def measure_likelihood(options: argparse.Namespace, pipeline: HFGenPipeline, images: Images) -> None:
    start, name = time.perf_counter(), f"log_likelihood_{options.what}"
    if options.variance_type:
        noise, name = pipeline.scheduler.config, f"{name}_{options.variance_type}"
        pipeline.scheduler = DDPMScheduler.from_config(noise, variance_type=options.variance_type)
    settings = {"method": METHODS[options.what]}
    settings |= {"num_timesteps": options.num_timesteps} if options.what == "bound" else {}
    settings |= {"num_ode_steps": options.num_ode_steps} if options.what == "ode" else {}
    found = likelihoods.log_likelihood(pipeline, images, range(options.num_images), tqdm, **settings)
    seconds = time.perf_counter() - start
    print(f"{options.run.name}: {found}, {seconds:.0f} s")
    config = yaml.safe_load((options.run / run_folder.CONFIG).read_text())
    likelihoods.write_log_likelihood(options.run, found, config["dataset_name"], "test", name)
    training = run_folder.read_metrics(options.run)[-1]
    line = {
        "run": options.run.name,
        "epoch": round(training["epoch"], 2),
        "training_seconds": round(training["seconds"]),
        "images": len(found.nats),
        "kind": found.kind,
        "method": found.method,
        "bits_per_dim": round(float(found.bits_per_dim.mean()), 5),
        "standard_error": round(float(found.bits_per_dim.std()) / len(found.nats) ** 0.5, 5),
        "seconds": round(seconds, 1),
    }
    record("diffusion_likelihood", line, ("run", "epoch", "method", "images"))


def measure_steps(run: Path, pipeline: HFGenPipeline, images: Images) -> None:
    """By DDIM; and the whole chain by the scheduler that the model was saved with."""
    ancestral = pipeline.scheduler
    rows = []
    for steps in STEPS:
        pipeline.register_modules(scheduler=DDIMScheduler.from_config(ancestral.config))
        few = steps < 1000
        rows += likelihoods.sampling_times(pipeline, [steps], BATCH, repeats=3 if few else 1)
        error = reconstruction_error(pipeline, images.tensor(range(8)), steps)
        line = {"run": run.name, "num_inference_steps": steps, "seconds": round(rows[-1]["seconds"], 3)}
        record("diffusion_steps", line | {"reconstruction_mse": error}, ("run", "num_inference_steps"))
        print(line, error)
    pipeline.register_modules(scheduler=ancestral)
    rows += likelihoods.sampling_times(pipeline, STEPS[-1:], BATCH, repeats=1)
    how = f"float32, {torch.get_num_threads()} threads of a CPU; median of 3, of 1 with 1,000 steps"
    likelihoods.write_sampling_times(run, rows, BATCH, how)


def reconstruction_error(pipeline: HFGenPipeline, images: torch.Tensor, steps: int) -> float:
    """Mean squared error per dimension, of images in [0, 1]."""
    latents = pipeline.encode(images, num_inference_steps=steps)
    back = pipeline.decode(latents, num_inference_steps=steps)
    return float(((back - images) / 2).square().mean())


def record(table: str, line: dict, same: tuple[str, ...]) -> None:
    """A line of results/<table>.json, replaced when measured again."""
    path = RESULTS / f"{table}.json"
    lines = json.loads(path.read_text()) if path.is_file() else []
    line |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")}
    lines = [old for old in lines if any(old[name] != line[name] for name in same)] + [line]
    path.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
