"""Training speed of DCGAN at 64x64, batch 64, on MNIST: hfgen's Trainer beside the loop that tutorials write.

    python benchmarks/dcgan_speed.py

The Trainer is the one of `hfgen train dcgan --resolution 64`: defaults of the family, moving average, run folder and
metrics included. The sample grid and the checkpoint, which it writes every 500 steps, are timed apart.
"""

import argparse
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from devices import compiled, device_of, device_option, result_name
from interleave import Goal, Variant, measure, options, record
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import hfgen
from hfgen.data.images import Images, decode_images
from hfgen.evaluation.drawing import draw
from hfgen.modalities import image as grid
from hfgen.settings.resolve import resolve
from hfgen_gan.dcgan import DCGANPipeline

SIZE, BATCH, LATENTS = 64, 64, 100
Run = Callable[[int], None]


# --- as tutorials write it --------------------------------------------------------------------------------------


def tutorial_generator(width: int = 64) -> nn.Sequential:
    widths = [LATENTS, 8 * width, 4 * width, 2 * width, width]
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        stride, padding = (2, 1) if index else (1, 0)
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(True)]
    layers += [nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers).apply(initialize)


def tutorial_discriminator(width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for factor in (1, 2, 4):
        layers.append(nn.Conv2d(factor * width, 2 * factor * width, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(2 * factor * width), nn.LeakyReLU(0.2, inplace=True)]
    layers += [nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Sigmoid()]
    return nn.Sequential(*layers).apply(initialize)


def initialize(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class TransformedImages(Dataset[Tensor]):
    """Images in memory; each is resized, made a tensor and normalized when it is asked for."""

    def __init__(self, images: Images) -> None:
        self.arrays = [np.array(images.open_image(index)) for index in range(len(images))]

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.fromarray(self.arrays[index]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(image)).unsqueeze(0).float().div(255)
        return (x - 0.5) / 0.5


def loaded_batches(images: Images, workers: int) -> Iterator[Tensor]:
    loader = DataLoader(TransformedImages(images), BATCH, shuffle=True, drop_last=True, num_workers=workers)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def resident_batches(images: Images, device: torch.device) -> Iterator[Tensor]:
    pixels = decode_images(images, SIZE, center_crop=True).to(device)
    while True:
        for indices in torch.randperm(len(pixels), device=device).split(BATCH)[: len(pixels) // BATCH]:
            yield pixels[indices].float().div_(127.5).sub_(1)


def tutorial_loop(source: Iterator[Tensor], log: TextIO, device: torch.device) -> Run:
    """Binary cross-entropy on probabilities, two stock Adams, five `.item()` and a line of text in each step."""
    generator, discriminator = tutorial_generator().to(device), tutorial_discriminator().to(device)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCELoss()
    ones, zeros = torch.ones(BATCH, device=device), torch.zeros(BATCH, device=device)

    def step(number: int, real: Tensor) -> None:
        discriminator.zero_grad()
        real = real.to(device)
        output = discriminator(real).view(-1)
        real_loss = criterion(output, ones)
        real_loss.backward()
        d_x = output.mean().item()
        fake = generator(torch.randn(BATCH, LATENTS, 1, 1, device=device))
        output = discriminator(fake.detach()).view(-1)
        fake_loss = criterion(output, zeros)
        fake_loss.backward()
        d_g_z1 = output.mean().item()
        d_optimizer.step()
        generator.zero_grad()
        output = discriminator(fake).view(-1)
        g_loss = criterion(output, ones)
        g_loss.backward()
        d_g_z2 = output.mean().item()
        g_optimizer.step()
        losses = f"Loss_D: {(real_loss + fake_loss).item():.4f} Loss_G: {g_loss.item():.4f}"
        print(f"[{number}] {losses} D(x): {d_x:.4f} D(G(z)): {d_g_z1:.4f} / {d_g_z2:.4f}", file=log)

    return steps_of(step, source)


# --- by hand, with all that hfgen does for speed -----------------------------------------------------------------


def optimised_loop(source: Iterator[Tensor], device: torch.device) -> Run:
    """The same training with hfgen's options: logits, fused Adam, channels last, D frozen in G's update."""
    generator = tutorial_generator().to(device, memory_format=torch.channels_last)
    discriminator = tutorial_discriminator()[:-1].to(device, memory_format=torch.channels_last)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
    softplus = nn.functional.softplus

    def step(number: int, real: Tensor) -> None:
        fake = generator(torch.randn(BATCH, LATENTS, 1, 1, device=device))
        d_loss = softplus(-discriminator(real)).mean() + softplus(discriminator(fake.detach())).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        discriminator.requires_grad_(False)
        g_optimizer.zero_grad()
        softplus(-discriminator(fake)).mean().backward()
        g_optimizer.step()
        discriminator.requires_grad_(True)

    return steps_of(step, source)


def steps_of(step: Callable[[int, Tensor], None], source: Iterator[Tensor]) -> Run:
    numbered = enumerate(source)

    def run(steps: int) -> None:
        for number, real in itertools.islice(numbered, steps):
            step(number, real)

    return run


# --- hfgen ------------------------------------------------------------------------------------------------------


class Training:
    """hfgen's own loop, advanced step by step."""

    def __init__(self, images: Images, stack: contextlib.ExitStack, **given: Any) -> None:
        given = {"resolution": SIZE, "train_batch_size": BATCH, "max_train_steps": 10**9, **given}
        arguments = resolve([("benchmark", given)], "dcgan", DCGANPipeline).arguments
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.pipeline = DCGANPipeline.build(SIZE, 1)
        self.trainer = hfgen.Trainer(self.pipeline, images, arguments, self.folder)
        self.steps = self.trainer.steps()
        stack.callback(self.steps.close)

    def run(self, steps: int) -> None:
        for _ in itertools.islice(self.steps, steps):
            pass

    def facts(self) -> dict[str, str]:
        """The precision that the generator's layers really compute in."""
        seen: list[torch.dtype] = []
        layer = self.pipeline.generator.blocks[1][0]
        hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        self.run(1)
        hook.remove()
        return {"layers compute in": str(seen[-1]).removeprefix("torch.")} if seen else {}  # compiled, none is called

    def seconds_of_grid(self) -> float:
        start = time.perf_counter()
        with self.trainer.networks.averaged() as pipeline:
            images = draw(pipeline, range(self.trainer.arguments.num_validation_images))
        grid.save_image(grid.image_grid(images), self.folder / "samples" / "grid.png")
        return time.perf_counter() - start

    def seconds_of_checkpoint(self) -> float:
        start = time.perf_counter()
        self.trainer._save_checkpoint()
        return time.perf_counter() - start


# --- side by side -----------------------------------------------------------------------------------------------

GOALS = [
    Goal("hfgen fp32", "ratio", 1.1, "tutorial"),
    Goal("hfgen bf16", "ratio", 1.7, "tutorial"),
    Goal("hfgen fp32, no EMA", "ratio", 0.95, "by hand, hfgen's options"),
]


def variants_of(
    images: Images, workers: int, device: torch.device, stack: contextlib.ExitStack
) -> tuple[list[Variant], Training]:
    log = stack.enter_context(open(os.devnull, "w"))
    fp32 = Training(images, stack)
    without_ema = Training(images, stack, use_ema=False)
    bf16 = Training(images, stack, mixed_precision="bf16")
    plain = {"layers compute in": "float32"}
    runs: dict[str, tuple[Run, dict[str, str]]] = {
        "tutorial": (tutorial_loop(loaded_batches(images, workers), log, device), plain),
        "tutorial, resident data": (tutorial_loop(resident_batches(images, device), log, device), plain),
        "by hand, hfgen's options": (optimised_loop(resident_batches(images, device), device), plain),
        "hfgen fp32, no EMA": (without_ema.run, without_ema.facts()),
        "hfgen fp32": (fp32.run, fp32.facts()),
        "hfgen bf16": (bf16.run, bf16.facts()),
    }
    for name, options_of in compiled(device).items():
        training = Training(images, stack, **options_of)
        runs[name] = (training.run, training.facts())
    return [Variant(name, run, facts, images=BATCH) for name, (run, facts) in runs.items()], fp32


def same_networks(pipeline: Any) -> str:
    """The parameter counts, which must be equal on both sides."""
    theirs = [tutorial_generator(), tutorial_discriminator()]
    counts = [[parameters(m) for m in side] for side in (theirs, [pipeline.generator, pipeline.discriminator])]
    assert counts[0] == counts[1], counts
    return "G {:,}, D {:,}".format(*counts[0])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def arguments() -> argparse.Namespace:
    parser = options(__doc__, blocks=11, block_seconds=1.5)
    device_option(parser)
    parser.add_argument("--tutorial_workers", type=int, default=0, help="DataLoader workers of the tutorial loop.")
    parser.add_argument("--threads", type=int, help="Threads of torch (default: its own choice).")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    device = device_of(given)
    if given.threads:
        torch.set_num_threads(given.threads)
    images = hfgen.load_images("mnist-mini")
    with contextlib.ExitStack() as stack:
        variants, fp32 = variants_of(images, given.tutorial_workers, device, stack)
        blocks = measure(variants, given)
        settings = {
            "ms": f"per step of {BATCH} images, {SIZE}x{SIZE}x1",
            "parameters": same_networks(fp32.pipeline),
            "tutorial's DataLoader workers": given.tutorial_workers,
            "not in these times, every 500 steps": f"sample grid {fp32.seconds_of_grid():.2f} s, "
            f"checkpoint {fp32.seconds_of_checkpoint():.2f} s",
        }
    record(result_name("dcgan_speed", device), variants, blocks, given, ["tutorial"], GOALS, settings)


if __name__ == "__main__":
    main()
