"""The log-likelihood of a VAE's checkpoints on the test images: nats against epochs, beside the published figure.

    hfgen train vae-mnist --output_dir runs/vae-mnist        # and iwae-mnist
    python benchmarks/vae_nats.py runs/vae-mnist --epochs 1,4,13,40 --num_importance_samples 500 --num_images 1000
    python benchmarks/vae_nats.py runs/vae-mnist             # the model itself: 5,000 samples, all 10,000 images

Protocol: test images binarised once, image i with the draws of seed i; L_K of Burda et al. 2016, eq. 8, in nats, mean
over the images with its standard error. Each measurement is a line of results/vae_nats.json, replaced when measured
again; that of the model itself is also written into the run's folder and its card.
"""

import argparse
import datetime
import json
import time
from pathlib import Path

from report import fill_readme, write_nats
from tqdm import tqdm

from hfgen import HFGenPipeline, evaluation, load_images
from hfgen.card import read_facts, write_card
from hfgen.checkpoint import list_checkpoints, step_of

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = parse()
    facts = read_facts(options.run) if (options.run / "README.md").is_file() else None
    images = load_images(options.dataset_name, "test")
    indices = range(min(options.num_images, len(images)))
    for epoch, folder in chosen(options.run, options.epochs, options.steps_per_epoch):
        epoch = round(facts["last"]["epoch"]) if epoch is None and facts else epoch
        start = time.perf_counter()
        pipeline = HFGenPipeline.from_pretrained(folder)
        bound = evaluation.log_likelihood(
            pipeline, images, indices, tqdm, num_importance_samples=options.num_importance_samples
        )
        seconds = time.perf_counter() - start
        print(f"{options.run.name}, epoch {epoch}: {bound}, {seconds:.0f} s")
        record(options, epoch, bound, seconds)
        if folder == options.run:
            evaluation.write_log_likelihood(options.run, bound, options.dataset_name, "test")
            write_card(options.run)
    write_nats(RESULTS)
    fill_readme()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", help="measure these checkpoints: 1,4,13 (default: the saved model)")
    parser.add_argument("--steps_per_epoch", type=int, default=3000)
    parser.add_argument("--dataset_name", default="ylecun/mnist")
    parser.add_argument("--num_importance_samples", type=int, default=5000)
    parser.add_argument("--num_images", type=int, default=10_000)
    return parser.parse_args()


def chosen(run: Path, epochs: str | None, steps_per_epoch: int) -> list[tuple[int | None, Path]]:
    """(epoch, folder) of what is measured."""
    if epochs is None:
        return [(None, run)]
    found = {step_of(folder) / steps_per_epoch: folder for folder in list_checkpoints(run)}
    return [(epoch, found[epoch]) for epoch in map(int, epochs.split(","))]


def record(options: argparse.Namespace, epoch: int | None, bound: evaluation.LogLikelihood, seconds: float) -> None:
    path = RESULTS / "vae_nats.json"
    lines = json.loads(path.read_text()) if path.is_file() else []
    line = {
        "run": options.run.name,
        "epoch": epoch,
        "images": len(bound.nats),
        "num_importance_samples": bound.num_importance_samples,
        "negative_nats": round(-float(bound.nats.mean()), 4),
        "standard_error": round(bound.standard_error, 4),
        "seconds": round(seconds, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    }
    same = ("run", "epoch", "images", "num_importance_samples")
    lines = [old for old in lines if any(old[name] != line[name] for name in same)] + [line]
    lines.sort(key=lambda old: [str(old["run"]), old["epoch"], old["num_importance_samples"]])
    path.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
