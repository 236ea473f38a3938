"""DDPM and DDIM beside diffusers, of which hfgen uses the networks: training steps and sampling, on the CPU.

    python benchmarks/diffusion_speed.py training --net small
    python benchmarks/diffusion_speed.py training --net cifar
    python benchmarks/diffusion_speed.py sampling --net small
    python benchmarks/diffusion_speed.py sampling --net cifar

Networks, the same `UNet2DModel` with the same weights on both sides, one attention head as wide as its level:

- small: channels 32, 64, 64, two layers per block, attention at 16x16, 1x32x32. Training batch 64.
- cifar: that of Ho et al. 2020 for CIFAR-10 as google/ddpm-cifar10-32 has it, 35.7 M, 3x32x32. Training batch 16.

Data: MNIST digits, padded to 32x32, for cifar in three channels. Speed is measured, not quality.

Training. "diffusers" is the loop of diffusers' examples/unconditional_image_generation/train_unconditional.py with its
defaults: Accelerate's prepare, accumulate, backward and clipping to 1.0, AdamW 1e-4 (0.95, 0.999), weight decay 1e-6,
cosine schedule with warm-up, `loss.item()` in each step; no EMA, in another row with its `--use_ema`. In its bf16 row
noise is drawn in bfloat16, as there. Left out, all to its advantage: torchvision's transforms and the DataLoader (it
takes bytes in memory, as hfgen does), the tracker, the progress bar, and what happens every epoch. hfgen is the
Trainer of `hfgen train ddpm`, metrics and run folder included, with its defaults (fused AdamW, EMA with buffers,
clipping to 1.0); the rows "no EMA" leave the average out.

Sampling. A unit is one denoising step of 16 images; a block is one call of so many steps, which ends before PIL.
"diffusers" draws from one generator, hfgen each image from its own seed. In bf16 the weights are bfloat16 on both
sides; hfgen keeps x_t in float32 all the same, diffusers has it in bfloat16. "Images, max difference" is from
diffusers' images in float32 after a few steps, with one generator for each image on both sides; the networks are
untrained, and a difference grows from step to step.

Where the time goes: shares of one training step, or of a few sampling steps, by torch's profiler, which lengthens what
consists of many small operations. Convolution includes laying its tensors out and casting them; linear is the
projections of attention and of the time embedding; the optimizer includes clipping.
"""

import argparse
import contextlib
import copy
import dataclasses
import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from devices import compiled, device_of, device_option, result_name
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from interleave import Goal, Variant, measure, options, record
from PIL import ImageOps
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.profiler import ProfilerActivity, record_function

import hfgen
from hfgen.data.images import Images, decode_images
from hfgen.settings.resolve import resolve
from hfgen_diffusion.ddim import DDIMPipeline
from hfgen_diffusion.ddpm import DDPMPipeline

SIDE, DRAWN = 32, 16  # of the images; how many are drawn at once
COMPARED_STEPS, PROFILED_STEPS = 5, 3
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Run = Callable[[int], Any]


@dataclass(frozen=True)
class Net:
    """`training` and `sampling` are what bf16 is to reach, as a ratio to diffusers in float32."""

    mode: str
    batch: int
    parameters: int
    unet: dict[str, Any]
    training: float
    sampling: float


NETS = {
    "small": Net(
        "L",
        64,
        1_623_169,
        {
            "block_out_channels": [32, 64, 64],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        },
        training=1.25,
        sampling=1.3,
    ),
    "cifar": Net(
        "RGB",
        16,
        35_746_307,
        {
            "block_out_channels": [128, 256, 256, 256],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        },
        training=1.8,
        sampling=1.7,
    ),
}


# --- data and network -------------------------------------------------------------------------------------------


def digits(net: Net, name: str) -> Images:
    """With zeros round them, in as many channels as the network takes."""
    images = hfgen.load_images(name)
    border = (SIDE - images.resolution()) // 2
    return dataclasses.replace(
        images,
        open_image=lambda index: ImageOps.expand(images.open_image(index), border).convert(net.mode),
        mode=net.mode,
        sizes=Counter({(SIDE, SIDE): len(images)}),
    )


def built(net: Net, channels: int) -> DDPMPipeline:
    """Untrained; with the variance that both sides take in fewer than all steps."""
    pipeline = DDPMPipeline.build(SIDE, channels, unet=net.unet, scheduler={"variance_type": "fixed_small"})
    count = sum(p.numel() for p in pipeline.unet.parameters())
    assert count == net.parameters, count
    return pipeline


# --- training: diffusers' script --------------------------------------------------------------------------------


def batches(pixels: Tensor, size: int) -> Iterator[Tensor]:
    """In [-1, 1]."""
    while True:
        for rows in torch.randperm(len(pixels), device=pixels.device).split(size)[: len(pixels) // size]:
            yield pixels.index_select(0, rows).float().div_(127.5).sub_(1)


def script_loop(
    unet: nn.Module, noise_scheduler: Any, pixels: Tensor, size: int, use_ema: bool = False, precision: str = "no"
) -> Run:
    """What the script does in a step; see the top of this file for what it does beside."""
    AcceleratorState._reset_state()  # one process trains here in two precisions
    accelerator = Accelerator(cpu=pixels.device.type == "cpu", mixed_precision=precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    plain_optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    schedule = get_scheduler("cosine", plain_optimizer, num_warmup_steps=500, num_training_steps=10**6)
    ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75) if use_ema else None
    model, optimizer, lr_scheduler = accelerator.prepare(unet.train(), plain_optimizer, schedule)
    if ema is not None:
        ema.to(accelerator.device)
    source, levels = batches(pixels, size), noise_scheduler.config.num_train_timesteps

    def run(steps: int) -> None:
        for images in itertools.islice(source, steps):
            x0 = images.to(dtype)
            noise = torch.randn(x0.shape, dtype=dtype, device=x0.device)
            t = torch.randint(0, levels, (len(x0),), device=x0.device)
            x_t = noise_scheduler.add_noise(x0, noise, t)
            with accelerator.accumulate(model):
                loss = mse_loss(model(x_t, t).sample.float(), noise.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            if ema is not None:
                ema.step(model.parameters())
            loss.detach().item()

    return run


# --- training: hfgen --------------------------------------------------------------------------------------------


class Training:
    """hfgen's own loop, advanced step by step."""

    family = "ddpm"

    def __init__(self, pipeline: Any, images: Images, batch: int, stack: contextlib.ExitStack, **given: Any) -> None:
        given = {
            "train_batch_size": batch,
            "max_train_steps": 10**9,
            "checkpointing_steps": 0,
            "validation_steps": 0,
            **given,
        }
        arguments = resolve([("benchmark", given)], self.family, type(pipeline)).arguments
        self.unet = pipeline.unet
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.steps = hfgen.Trainer(pipeline, images, arguments, folder).steps()
        stack.callback(self.steps.close)

    def run(self, steps: int) -> None:
        for _ in itertools.islice(self.steps, steps):
            pass


def compare_training(name: str, given: argparse.Namespace) -> None:
    net, device = NETS[name], device_of(given)
    images = digits(net, given.dataset_name)
    pixels = decode_images(images, SIDE, center_crop=True).to(device)
    pipeline = built(net, images.channels)
    unets: dict[str, nn.Module] = {}
    runs: dict[str, Run] = {}
    scripts: dict[str, dict[str, Any]] = {
        "diffusers fp32": {},
        "diffusers fp32, EMA": {"use_ema": True},
        "diffusers bf16": {"precision": "bf16"},
    }
    trainings: dict[str, dict[str, Any]] = {
        "hfgen fp32": {},
        "hfgen fp32, no EMA": {"use_ema": False},
        "hfgen bf16": {"mixed_precision": "bf16"},
        "hfgen bf16, no EMA": {"mixed_precision": "bf16", "use_ema": False},
        **compiled(device),
    }
    with contextlib.ExitStack() as stack:
        for variant, arguments in scripts.items():
            unets[variant] = unet = copy.deepcopy(pipeline.unet)
            scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
            runs[variant] = script_loop(unet, scheduler, pixels, net.batch, **arguments)
        for variant, arguments in trainings.items():
            training = Training(copy.deepcopy(pipeline), images, net.batch, stack, **arguments)
            unets[variant], runs[variant] = training.unet, training.run
        variants = [Variant(variant, run, {}, net.batch) for variant, run in runs.items()]
        blocks = measure(variants, given)
        for variant in variants if device.type == "cpu" else ():
            variant.facts |= where_the_time_goes(variant.run, 1, unets[variant.name], [*KINDS, *OUTER, REST])
    goals = [
        Goal("hfgen fp32, no EMA", "ratio", 1.0, "diffusers fp32"),
        Goal("hfgen fp32", "ratio", 1.0, "diffusers fp32, EMA"),
        Goal("hfgen bf16, no EMA", "ratio", net.training, "diffusers fp32"),
        Goal("hfgen bf16", "ratio", net.training, "diffusers fp32, EMA"),
    ]
    used = {
        "ms": f"per step of {net.batch} images of {Path(images.name).name}, {' x '.join(map(str, pixels.shape[1:]))}",
        "parameters": f"{net.parameters:,} on both sides, the same weights at the start",
        "shares": "of the time of a step",
        "threads": torch.get_num_threads(),
    }
    bases = ["diffusers fp32", "diffusers fp32, EMA"]
    record(result_name(f"diffusion_training_{name}", device), variants, blocks, given, bases, goals, used)


# --- sampling ---------------------------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[Any, Any, Any]] = {
    "DDPM": (diffusers.DDPMPipeline, DDPMPipeline, diffusers.DDPMScheduler),
    "DDIM": (diffusers.DDIMPipeline, DDIMPipeline, diffusers.DDIMScheduler),
}


def pipelines(built_pipeline: DDPMPipeline) -> dict[str, Any]:
    """Both sides' of both families in both precisions, on copies of one network."""
    found = {}
    for family, (theirs, ours, scheduler_class) in FAMILIES.items():
        for precision, dtype in PRECISIONS.items():
            for side, pipeline_class in (("diffusers", theirs), ("hfgen", ours)):
                unet = copy.deepcopy(built_pipeline.unet).eval()
                scheduler = scheduler_class.from_config(built_pipeline.scheduler.config)
                pipeline = pipeline_class(unet=unet, scheduler=scheduler).to(dtype)
                pipeline.set_progress_bar_config(disable=True)
                found[f"{side} {family} {precision}"] = pipeline
    return found


def drawing(pipeline: Any, name: str) -> Run:
    """In one call of so many denoising steps."""
    generator, seeds = torch.Generator().manual_seed(0), itertools.count(0, DRAWN)

    def theirs(steps: int) -> None:
        pipeline(DRAWN, generator, num_inference_steps=steps, output_type="pt")

    def ours(steps: int) -> None:
        start = next(seeds)
        pipeline(seeds=range(start, start + DRAWN), num_inference_steps=steps, output_type="pt")

    return theirs if name.startswith("diffusers") else ours


def drawn(pipeline: Any) -> Tensor:
    """Some images, (DRAWN, C, H, W) in [0, 1]: the same generators for each pipeline."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(DRAWN)]
    found = pipeline(DRAWN, generators, num_inference_steps=COMPARED_STEPS, output_type="pt").images
    return torch.as_tensor(found).float()


def compare_sampling(name: str, given: argparse.Namespace) -> None:
    net = NETS[name]
    images = digits(net, given.dataset_name)
    found = pipelines(built(net, images.channels))
    pictures = {variant: drawn(pipeline) for variant, pipeline in found.items()}
    variants = []
    for variant, pipeline in found.items():
        _, family, _ = variant.split()
        difference = (pictures[variant] - pictures[f"diffusers {family} fp32"]).abs().max()
        facts = {"images, max difference": f"{float(difference):.1e}"}
        variants.append(Variant(variant, drawing(pipeline, variant), facts))
    blocks = measure(variants, given)
    for variant in variants:
        variant.facts |= where_the_time_goes(variant.run, PROFILED_STEPS, found[variant.name].unet, [*KINDS, REST])
    goals = [
        Goal(f"hfgen {family} {precision}", "ratio", least, f"diffusers {family} fp32")
        for precision, least in (("fp32", 1.0), ("bf16", net.sampling))
        for family in FAMILIES
    ]
    used = {
        "ms": f"per denoising step of {DRAWN} images, {images.channels} x {SIDE} x {SIDE}",
        "parameters": f"{net.parameters:,}, the same weights on both sides, untrained",
        "max difference": f"from diffusers fp32 after {COMPARED_STEPS} steps, pixels in [0, 1]",
        "shares": "of the time of a step",
        "threads": torch.get_num_threads(),
    }
    bases = [f"diffusers {family} fp32" for family in FAMILIES]
    record(f"diffusion_sampling_{name}", variants, blocks, given, bases, goals, used)


# --- where the time goes ----------------------------------------------------------------------------------------

KINDS = {  # an operation is of the first kind of which its name, or else its caller's, has a part
    "convolution": ("conv", "Convolution"),
    "attention": ("scaled_dot_product", "ScaledDotProduct"),
    "linear": ("linear", "addmm", "aten::mm", "AddmmBackward", "MmBackward"),
    "norm, SiLU": ("group_norm", "GroupNorm", "silu", "Silu"),
}
OUTER = {"optimizer": ("Optimizer.", "clip_grad_norm"), "EMA": ("EMAModel.step",)}  # whatever is done within
REST = "rest"


def where_the_time_goes(run: Run, units: int, unet: nn.Module, kinds: Iterable[str]) -> dict[str, str]:
    """The precision that convolutions really compute in, and the share of each kind of work in some units."""
    seen: list[torch.dtype] = []
    hook = unet.down_blocks[0].resnets[0].conv1.register_forward_hook(lambda m, x, output: seen.append(output.dtype))
    with named(EMAModel, "step", "EMAModel.step"), named(torch.nn.utils, "clip_grad_norm_", "clip_grad_norm"):
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile, record_function("all of it"):
            run(units)
    hook.remove()
    times: Counter[str] = Counter()
    for event in profile.events():
        times[kind_of(event)] += event.self_cpu_time_total
    whole = times.total()
    shares = {kind: f"{100 * times[kind] / whole:.0f} %" if times[kind] else "-" for kind in kinds}
    return {"computes in": str(seen[-1]).removeprefix("torch."), **shares}


@contextlib.contextmanager
def named(owner: Any, name: str, label: str) -> Iterator[None]:
    """Within, the profiler knows calls of that function by a label."""
    function = getattr(owner, name)

    def labeled(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    with patch.object(owner, name, labeled):
        yield


def kind_of(event: Any) -> str:
    """By the nearest name that says it, of the operation and its callers."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    found = [kind for kinds in (OUTER, KINDS) for name in names for kind, parts in kinds.items() if has(name, parts)]
    return found[0] if found else REST


def has(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)


def arguments() -> argparse.Namespace:
    parser = options(__doc__, blocks=7, block_seconds=1.0)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=COMPARISONS, help="What to measure.")
    device_option(parser)
    parser.add_argument("--net", choices=NETS, default="small", help="Of which network.")
    parser.add_argument("--dataset_name", default="mnist-mini", help="Gray images of 28x28.")
    parser.add_argument("--threads", type=int, help="Threads of torch (default: its own choice).")
    return parser.parse_args()


COMPARISONS = {"training": compare_training, "sampling": compare_sampling}


def main() -> None:
    given = arguments()
    if device_of(given).type != "cpu" and given.kind == "sampling":
        raise SystemExit("Only training is compared on an accelerator.")
    if given.threads:
        torch.set_num_threads(given.threads)
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    COMPARISONS[given.kind](given.net, given)


if __name__ == "__main__":
    main()
