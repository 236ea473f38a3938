"""An MLP VAE, 784-512-(16)-512-784 on MNIST: hfgen beside pythae, in training and in likelihood.

    pip install pythae==0.1.2                       # the peer; hfgen never needs it
    python benchmarks/vae_speed.py
    python benchmarks/vae_speed.py --dataset_name ylecun/mnist

Both train equal networks, pythae's default ones (the parameter counts are compared), with the same images, batches of
the same size, and Adam 1e-3. pythae is its own BaseTrainer with its own DataLoader, `train_step` of as many steps as a
block has, without its progress bar. hfgen is the Trainer of `hfgen train vae`, metrics and run folder included; what
it writes every 500 steps is timed apart. What differs, because each side's own parts are used as they are:

- mse: pythae's decoder ends in a sigmoid, hfgen's Gaussian mean is linear. The loss is otherwise the same up to a
  constant: pythae's sigma is 1 for pixels in [0, 1], so hfgen's is 2 for pixels in [-1, 1].
- bce: the same loss. Both see black and white; pythae is given it, hfgen thresholds each batch.

Of the likelihood the weights are the same too, so that both estimate the same number.
"""

import argparse
import contextlib
import copy
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from devices import compiled, device_of, device_option, result_name
from interleave import Goal, Variant, measure, options, record
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

import hfgen
from hfgen.data.images import Images, decode_images
from hfgen.settings.resolve import resolve
from hfgen.training.validation import EXAMPLES, validate
from hfgen_vae.vae import VAEPipeline

try:
    from pythae.data.preprocessors import DataProcessor
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import ProgressBarCallback
except ImportError as error:
    raise SystemExit(
        f"This compares hfgen with pythae, which cannot be imported here: {error}\n"
        "Install it into this environment: pip install pythae==0.1.2\n"
        "If its dependencies quarrel with hfgen's: pip install --no-deps pythae==0.1.2, then\n"
        "pip install cloudpickle imageio pydantic scikit-learn scipy"
    ) from error

HIDDEN, LATENTS, LEARNING_RATE = 512, 16, 1e-3
IMPORTANCE_SAMPLES = 500
UNIT = 20  # images in one unit of the likelihood
COMPARED = 100  # images whose mean log-likelihood by each side is shown
LIKELIHOODS: dict[str, dict[str, Any]] = {
    "mse": {"class_name": "GaussianLikelihood", "sigma": 2.0},
    "bce": {"class_name": "BernoulliLikelihood", "binarization": "threshold"},
}
Run = Callable[[int], Any]


# --- pythae -----------------------------------------------------------------------------------------------------


class Endless:
    """A DataLoader of which `train_step` takes `steps` batches at a time; epochs go on from one block to the next."""

    def __init__(self, loader: Any) -> None:
        self.dataset, self.steps = loader.dataset, 0
        self.batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.batches, self.steps)


def pythae_model(shape: tuple[int, ...], loss: str) -> Any:
    return VAE(VAEConfig(input_dim=shape, latent_dim=LATENTS, reconstruction_loss=loss))


def pythae_loop(
    pixels: Tensor, batch: int, loss: str, device: torch.device, stack: contextlib.ExitStack
) -> tuple[Run, nn.Module]:
    """As its TrainingPipeline sets it up; images of a last, smaller batch are left out, as hfgen does."""
    model = pythae_model(tuple(pixels.shape[1:]), loss)
    data = DataProcessor().process_data(pythae_images(pixels[: len(pixels) // batch * batch], loss))
    config = BaseTrainerConfig(
        output_dir=stack.enter_context(tempfile.TemporaryDirectory()),
        per_device_train_batch_size=batch,
        learning_rate=LEARNING_RATE,
        no_cuda=device.type == "cpu",
    )
    trainer = BaseTrainer(model, DataProcessor.to_dataset(data), training_config=config)
    trainer.prepare_training()
    handler = trainer.callback_handler
    handler.callbacks = [c for c in handler.callbacks if not isinstance(c, ProgressBarCallback)]
    trainer.train_loader = loader = Endless(trainer.train_loader)

    def run(steps: int) -> None:
        loader.steps = steps
        trainer.train_step(epoch=1)

    return run, model


def pythae_images(pixels: Tensor, loss: str) -> Tensor:
    """In [0, 1], or black and white."""
    images = pixels.float() / 255
    return images if loss == "mse" else (images >= 0.5).float()


# --- by hand ----------------------------------------------------------------------------------------------------


def plain_loop(pixels: Tensor, batch: int, loss: str, device: torch.device, bf16: bool) -> Run:
    """The least that hfgen's training could be: resident bytes, fused Adam, no metrics, no run folder."""
    size, pixels = pixels[0].numel(), pixels.to(device)
    encoder = nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS)).to(device)
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size)).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LEARNING_RATE, fused=True)
    rows = epochs(len(pixels), batch, device)

    def run(steps: int) -> None:
        for indices in itertools.islice(rows, steps):
            x = pixels.index_select(0, indices).flatten(1).float().div_(255)
            x = x if loss == "mse" else (x >= 0.5).float()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                mean, logvar = encoder(x).float().chunk(2, dim=1)
                output = decoder(torch.addcmul(mean, torch.exp(0.5 * logvar), torch.randn_like(mean))).float()
            if loss == "mse":
                reconstruction = 0.5 * mse_loss(output, x, reduction="sum")
            else:
                reconstruction = binary_cross_entropy_with_logits(output, x, reduction="sum")
            kl = 0.5 * (mean**2 + torch.expm1(logvar) - logvar).sum()
            ((reconstruction + kl) / batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def epochs(length: int, batch: int, device: torch.device) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(length, device=device).split(batch)[: length // batch]


# --- hfgen ------------------------------------------------------------------------------------------------------


def hfgen_pipeline(images: Images, loss: str) -> VAEPipeline:
    network = {"hidden_dims": [HIDDEN], "activation": "relu", "latent_dim": LATENTS}
    return VAEPipeline.build(
        images.resolution(),
        images.channels,
        encoder={"class_name": "MLPEncoder", **network},
        decoder={"class_name": "MLPDecoder", **network},
        likelihood=LIKELIHOODS[loss],
    )


def settings(**given: Any) -> Any:
    """The family's defaults; nothing but metrics is written on the way."""
    given = {"learning_rate": LEARNING_RATE, "validation_steps": 0, "checkpointing_steps": 0, **given}
    return resolve([("benchmark", given)], "vae", VAEPipeline).arguments


class Training:
    """hfgen's own loop, advanced step by step."""

    def __init__(self, images: Images, batch: int, loss: str, stack: contextlib.ExitStack, **given: Any) -> None:
        arguments = settings(train_batch_size=batch, max_train_steps=10**9, **given)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.pipeline = hfgen_pipeline(images, loss)
        self.trainer = hfgen.Trainer(self.pipeline, images, arguments, self.folder)
        self.steps = self.trainer.steps()
        stack.callback(self.steps.close)

    def run(self, steps: int) -> None:
        for _ in itertools.islice(self.steps, steps):
            pass

    def facts(self) -> dict[str, str]:
        """The precision that the decoder's layers really compute in."""
        seen: list[torch.dtype] = []
        hook = self.pipeline.decoder.layers[0].register_forward_hook(
            lambda m, inputs, output: seen.append(output.dtype)
        )
        self.run(1)
        hook.remove()
        return {"layers compute in": str(seen[-1]).removeprefix("torch.")} if seen else {}  # compiled, none is called

    def seconds_of_pictures(self) -> float:
        """Sample grid, reconstructions and diagnosis."""
        trainer, start = self.trainer, time.perf_counter()
        examples = trainer.batches.examples(EXAMPLES)
        with torch.no_grad(), trainer.networks.averaged() as pipeline:
            validate(pipeline, examples, self.folder, trainer.step, trainer.arguments)
        return time.perf_counter() - start

    def seconds_of_checkpoint(self) -> float:
        start = time.perf_counter()
        self.trainer._save_checkpoint()
        return time.perf_counter() - start


# --- training, side by side -------------------------------------------------------------------------------------

TRAINING_GOALS = {
    64: [Goal("hfgen fp32", "ratio", 1.5, "pythae"), Goal("hfgen bf16", "ratio", 2.0, "pythae")],
    512: [Goal("hfgen bf16", "ratio", 2.7, "pythae")],
}


def compare_training(images: Images, batch: int, device: torch.device, given: argparse.Namespace) -> None:
    pixels = decode_images(images, images.resolution(), center_crop=True)
    loss = given.reconstruction_loss
    with contextlib.ExitStack() as stack:
        theirs, model = pythae_loop(pixels, batch, loss, device, stack)
        fp32 = Training(images, batch, loss, stack)
        bf16 = Training(images, batch, loss, stack, mixed_precision="bf16")
        plain = {"layers compute in": "float32"}
        runs: dict[str, tuple[Run, dict[str, str]]] = {
            "pythae": (theirs, plain),
            "by hand, fp32": (plain_loop(pixels, batch, loss, device, bf16=False), plain),
            "by hand, bf16": (plain_loop(pixels, batch, loss, device, bf16=True), {"layers compute in": "bfloat16"}),
            "hfgen fp32": (fp32.run, fp32.facts()),
            "hfgen bf16": (bf16.run, bf16.facts()),
        }
        for name, options_of in compiled(device).items():
            training = Training(images, batch, loss, stack, **options_of)
            runs[name] = (training.run, training.facts())
        variants = [Variant(name, run, facts, images=batch) for name, (run, facts) in runs.items()]
        blocks = measure(variants, given)
        used = {
            "ms": f"per step of {batch} images of {Path(images.name).name}, {' x '.join(map(str, pixels.shape[1:]))}",
            "parameters": same_networks(fp32.pipeline, model),
            "reconstruction loss": loss,
            "not in these times, every 500 steps of hfgen": f"pictures and diagnosis "
            f"{fp32.seconds_of_pictures():.2f} s, checkpoint {fp32.seconds_of_checkpoint():.2f} s",
        }
    goals = TRAINING_GOALS.get(batch, [])
    name = result_name(f"vae_training_{batch}", device)
    record(name, variants, blocks, given, ["pythae", "by hand, fp32"], goals, used)


def same_networks(pipeline: VAEPipeline, model: Any) -> str:
    """The parameter counts, which must be equal on both sides."""
    sides = [[pipeline.encoder, pipeline.decoder], [model.encoder, model.decoder]]
    counts = [[sum(p.numel() for p in network.parameters()) for network in side] for side in sides]
    assert counts[0] == counts[1], counts
    return "encoder {:,}, decoder {:,}".format(*counts[0])


# --- likelihood, side by side -----------------------------------------------------------------------------------


def compare_likelihood(images: Images, test_images: Images, given: argparse.Namespace) -> None:
    """Bernoulli on black and white; of a network trained a little, so that the weights of importance are not wild."""
    pipeline = hfgen_pipeline(images, "bce")
    steps = given.likelihood_training_steps
    hfgen.Trainer(pipeline, images, settings(max_train_steps=steps, logging_steps=steps)).train()
    pixels = decode_images(test_images, images.resolution(), center_crop=True)[:1000]
    model = pythae_model(tuple(pixels.shape[1:]), "bce").eval()
    counts = same_networks(pipeline, model)
    copy_weights(pipeline, model)
    theirs, ours = pythae_images(pixels, "bce"), pixels.float().div_(127.5).sub_(1)

    def first(count: int) -> Tensor:
        return torch.arange(count) % len(pixels)

    def pythae_bound(rows: Tensor) -> float:
        return float(model.get_nll(theirs[rows], n_samples=IMPORTANCE_SAMPLES, batch_size=100))

    def hfgen_bound(rows: Tensor, pipeline: VAEPipeline = pipeline) -> float:
        return float(pipeline.log_likelihood(ours[rows], num_importance_samples=IMPORTANCE_SAMPLES).nats.mean())

    bf16 = copy.deepcopy(pipeline).to(torch.bfloat16)
    bounds = {
        "pythae get_nll": pythae_bound,  # which records a graph for gradients
        "pythae get_nll, no_grad": torch.no_grad()(pythae_bound),
        "hfgen log_likelihood": hfgen_bound,
        "hfgen log_likelihood, bf16": lambda rows: hfgen_bound(rows, bf16),
    }
    means = {name: f"{bound(first(COMPARED)):.2f}" for name, bound in bounds.items()}
    variants = [
        Variant(name, lambda units, bound=bound: bound(first(UNIT * units)), {"mean, nats": means[name]}, UNIT)
        for name, bound in bounds.items()
    ]
    blocks = measure(variants, given)
    used = {
        "ms": f"per {UNIT} images of {Path(test_images.name).name}, test, K = {IMPORTANCE_SAMPLES} for each",
        "mean": f"of ln p(x) of {COMPARED} images, which pythae returns as the negative log-likelihood",
        "parameters": counts,
        "weights": f"the same on both sides, after {steps} steps",
    }
    goals = [Goal("hfgen log_likelihood", "ratio", 20, "pythae get_nll")]
    record("vae_likelihood", variants, blocks, given, ["pythae get_nll", "pythae get_nll, no_grad"], goals, used)


@torch.no_grad()
def copy_weights(pipeline: VAEPipeline, model: Any) -> None:
    """hfgen's weights into pythae's network, which has two heads where hfgen has one of twice the width."""
    heads = nn.Linear(HIDDEN, LATENTS), nn.Linear(HIDDEN, LATENTS)
    for part in ("weight", "bias"):
        for head, values in zip(heads, getattr(pipeline.encoder.to_moments, part).chunk(2), strict=True):
            getattr(head, part).copy_(values)
    pairs = [
        (model.encoder.layers[0][0], pipeline.encoder.layers[0]),
        (model.encoder.embedding, heads[0]),
        (model.encoder.log_var, heads[1]),
        (model.decoder.layers[0][0], pipeline.decoder.layers[0]),
        (model.decoder.layers[1][0], pipeline.decoder.to_parameters),
    ]
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())


def arguments() -> argparse.Namespace:
    parser = options(__doc__, blocks=9, block_seconds=1.0)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    device_option(parser)
    parser.add_argument("--dataset_name", default="mnist-mini", help="Data with a train and a test split.")
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[64, 512], help="Of the training.")
    parser.add_argument("--reconstruction_loss", choices=LIKELIHOODS, default="mse", help="Of the training.")
    parser.add_argument("--likelihood_training_steps", type=int, default=1000, help="Steps of the network evaluated.")
    parser.add_argument("--threads", type=int, help="Threads of torch (default: its own choice).")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    device = device_of(given)
    if given.threads:
        torch.set_num_threads(given.threads)
    logging.disable(logging.INFO)  # pythae tells what it does
    images, test_images = (hfgen.load_images(given.dataset_name, split=split) for split in ("train", "test"))
    for batch in given.batch_sizes:
        compare_training(images, batch, device, given)
    if device.type == "cpu":
        compare_likelihood(images, test_images, given)


if __name__ == "__main__":
    main()
