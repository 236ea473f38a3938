"""The log-likelihood of a run on the test images, and of its checkpoints: against epochs, beside published figures.

    hfgen train glow-mnist --output_dir runs/glow-mnist      # or realnvp-mnist, vae-mnist, iwae-mnist
    python benchmarks/likelihood.py runs/glow-mnist --epochs 1,3 --num_images 2000
    python benchmarks/likelihood.py runs/glow-mnist --num_importance_samples 8     # the model itself, all images

Protocol: image i of the test split with the draws of seed i (binarized once, where the likelihood is of binary
images); the bound of K importance samples, mean over the images with its standard error; averaged weights where the
run averages. Each measurement is a line of results/<table>.json, replaced when measured again; that of the model
itself is also written into the run's folder and its card.
"""

import argparse
import datetime
import json
import time
from pathlib import Path

import yaml
from report import fill_readme, write_likelihoods
from safetensors.torch import load_file
from tqdm import tqdm

from hfgen import HFGenPipeline, load_images, run_folder
from hfgen.cards.card import write_card
from hfgen.evaluation import likelihoods
from hfgen.likelihood import LogLikelihood
from hfgen.training.checkpoint import list_checkpoints, step_of

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = parse()
    config = yaml.safe_load((options.run / run_folder.CONFIG).read_text())
    lines = {line["step"]: line for line in run_folder.read_metrics(options.run)}
    images = load_images(options.dataset_name, "test")
    indices = range(min(options.num_images, len(images)))
    wanted = None if options.epochs is None else {float(epoch) for epoch in options.epochs.split(",")}
    for step, folder in chosen(options.run, lines, wanted):
        start = time.perf_counter()
        pipeline = load(folder)
        bound = likelihoods.log_likelihood(
            pipeline, images, indices, tqdm, num_importance_samples=options.num_importance_samples
        )
        seconds = time.perf_counter() - start
        print(f"{options.run.name}, step {step}: {bound}, {seconds:.0f} s")
        record(table_of(pipeline), options.run.name, lines[step], bound, seconds)
        if folder == options.run:
            likelihoods.write_log_likelihood(options.run, bound, config["dataset_name"], "test")
            write_card(options.run)
    write_likelihoods(RESULTS)
    fill_readme()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", help="measure these checkpoints: 1,4,13 (default: the saved model)")
    parser.add_argument("--dataset_name", default="ylecun/mnist")
    parser.add_argument("--num_importance_samples", type=int, default=5000)
    parser.add_argument("--num_images", type=int, default=10_000)
    return parser.parse_args()


def table_of(pipeline: HFGenPipeline) -> str:
    """Exact flows are compared in bits per dimension of bytes, VAEs in nats of binary images."""
    exact = type(pipeline).to_latents is not HFGenPipeline.to_latents
    return "flow_bits" if exact else "vae_nats"


def chosen(run: Path, lines: dict[int, dict], epochs: set[float] | None) -> list[tuple[int, Path]]:
    """(step, folder) of what is measured."""
    if epochs is None:
        return [(max(lines), run)]
    found = {lines[step_of(folder)]["epoch"]: folder for folder in list_checkpoints(run)}
    return [(step_of(found[epoch]), found[epoch]) for epoch in sorted(epochs)]


def load(folder: Path) -> HFGenPipeline:
    """A run, or a checkpoint with its averaged weights."""
    pipeline = HFGenPipeline.from_pretrained(folder)
    for name, model in pipeline.models().items():
        averaged = folder / "trainer" / f"{name}.ema.safetensors"
        if averaged.is_file():
            model.load_state_dict(load_file(averaged))
    return pipeline


def record(table: str, run: str, metrics: dict, bound: LogLikelihood, seconds: float) -> None:
    path = RESULTS / f"{table}.json"
    lines = json.loads(path.read_text()) if path.is_file() else []
    line = {
        "run": run,
        "epoch": round(metrics["epoch"], 2),
        "training_seconds": round(metrics["seconds"]),
        "images": len(bound.nats),
        "num_importance_samples": bound.num_importance_samples,
        "negative_nats": round(-float(bound.nats.mean()), 4),
        "standard_error": round(bound.standard_error, 4),
        "bits_per_dim": round(float(bound.bits_per_dim.mean()), 5),
        "seconds": round(seconds, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    }
    same = ("run", "epoch", "images", "num_importance_samples")
    lines = [old for old in lines if any(old[name] != line[name] for name in same)] + [line]
    lines.sort(key=lambda old: [str(old["run"]), old["epoch"], old["num_importance_samples"]])
    path.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
