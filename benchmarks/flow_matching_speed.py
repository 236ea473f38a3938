"""Flow matching beside the same work by hand, and beside diffusers: training steps and sampling, on the CPU.

    python benchmarks/flow_matching_speed.py training
    python benchmarks/flow_matching_speed.py sampling

Training. A JiT of 1.3 million parameters (patches of 7x7, width 128, 4 layers) and diffusers' UNet of 1.1 million, on
28x28 digits, batches of 64, float32. "by hand" is a plain loop with the same network and loss: fused AdamW, clipping
to 1.0, no metrics, no run folder, no noise by seeds, no EMA. hfgen is the Trainer of `hfgen train flow_matching`, with
and without its EMA.

Sampling. A unit is one call of the network for 16 images; a block is one call of so many Euler steps. "diffusers" is
its `DDPMPipeline` with the `FlowMatchEulerDiscreteScheduler`; hfgen has the same network and scheduler, and draws each
image from its own seed. In bf16 the weights are bfloat16 on both sides. The row of the JiT is hfgen's; diffusers has
none.

Where the time goes: shares of a training step, or of a few calls, by torch's profiler, as in diffusion_speed.py.
"""

import argparse
import contextlib
import copy
import itertools
import logging
from collections import Counter
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusion_speed import DRAWN, KINDS, OUTER, REST, Run, Training, batches, kind_of, named
from interleave import Goal, Variant, measure, options, record
from torch import nn
from torch.nn.functional import mse_loss
from torch.profiler import ProfilerActivity, record_function

import hfgen
from hfgen.data.images import decode_images
from hfgen_diffusion.flow_matching import FlowMatchingPipeline
from hfgen_diffusion.interpolant import LEAST_SIGMA

BATCH, PROFILED = 64, 3
NETWORKS: dict[str, dict[str, Any]] = {
    "JiT": {"class_name": "JiT", "patch_size": 7, "hidden_size": 128, "num_layers": 4, "num_attention_heads": 4},
    "UNet": {"class_name": "UNet2DModel", "block_out_channels": [32, 64, 64], "layers_per_block": 1},
}


def built(network: str) -> FlowMatchingPipeline:
    torch.manual_seed(0)
    return FlowMatchingPipeline.build(28, 1, unet=copy.deepcopy(NETWORKS[network]))


def loop(unet: nn.Module, pixels: torch.Tensor, predicts_image: bool) -> Run:
    """A training step by hand; t is logit-normal as the paper of each has it."""
    optimizer = torch.optim.AdamW(unet.train().parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    source, (m, s) = batches(pixels, BATCH), (0.8, 0.8) if predicts_image else (0.0, 1.0)

    def run(steps: int) -> None:
        for x in itertools.islice(source, steps):
            epsilon, t = torch.randn_like(x), torch.sigmoid(m + s * torch.randn(len(x), 1, 1, 1))
            x_t = (1 - t) * x + t * epsilon
            output = unet(x_t, 1000 * t.flatten(), return_dict=False)[0]
            if predicts_image:
                least = t.clamp(min=LEAST_SIGMA)
                loss = mse_loss((x_t - output) / least, (x_t - x) / least)
            else:
                loss = mse_loss(output, epsilon - x)
            loss.backward()
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def compare_training(given: argparse.Namespace) -> None:
    images = hfgen.load_images(given.dataset_name)
    pixels = decode_images(images, 28, center_crop=True)
    runs: dict[str, Run] = {}
    with contextlib.ExitStack() as stack:
        for name in NETWORKS:
            pipeline = built(name)
            runs[f"by hand, {name}"] = loop(copy.deepcopy(pipeline.unet), pixels, name == "JiT")
            for variant, arguments in ((f"hfgen, {name}, no EMA", {"use_ema": False}), (f"hfgen, {name}", {})):
                runs[variant] = FlowTraining(copy.deepcopy(pipeline), images, BATCH, stack, **arguments).run
        variants = [Variant(name, run, {}, BATCH) for name, run in runs.items()]
        blocks = measure(variants, given)
        for variant in variants:
            variant.facts |= shares(variant.run, PROFILED, [*KINDS, *OUTER, REST])
    goals = [Goal(f"hfgen, {name}, no EMA", "ratio", 1.0, f"by hand, {name}") for name in NETWORKS]
    used = {"ms": f"per step of {BATCH} images, 1 x 28 x 28", "threads": torch.get_num_threads()}
    record("flow_matching_training", variants, blocks, given, [f"by hand, {name}" for name in NETWORKS], goals, used)


class FlowTraining(Training):
    """hfgen's own loop of flow matching."""

    family = "flow_matching"


def compare_sampling(given: argparse.Namespace) -> None:
    unet, variants = built("UNet").unet.eval(), []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for side, pipeline_class in (("diffusers", diffusers.DDPMPipeline), ("hfgen", FlowMatchingPipeline)):
            pipeline = pipeline_class(copy.deepcopy(unet), FlowMatchEulerDiscreteScheduler()).to(dtype)
            variants.append(Variant(f"{side} {precision}", drawing(pipeline, side == "hfgen")))
    variants.append(Variant("hfgen fp32, JiT", drawing(built("JiT"), True)))
    blocks = measure(variants, given)
    for variant in variants:
        variant.facts |= shares(variant.run, PROFILED, [*KINDS, REST])
    goals = [Goal(f"hfgen {p}", "ratio", least, "diffusers fp32") for p, least in (("fp32", 1.0), ("bf16", 1.4))]
    used = {"ms": f"per network call of {DRAWN} images, 1 x 28 x 28", "threads": torch.get_num_threads()}
    record("flow_matching_sampling", variants, blocks, given, ["diffusers fp32"], goals, used)


def drawing(pipeline: Any, by_seeds: bool) -> Run:
    """Images in one call of so many steps of Euler's method."""
    pipeline.set_progress_bar_config(disable=True)
    generator, options = torch.Generator().manual_seed(0), {"solver": "euler"} if by_seeds else {}

    def run(steps: int) -> None:
        who = {"seeds": range(DRAWN)} if by_seeds else {"batch_size": DRAWN, "generator": generator}
        pipeline(**who, num_inference_steps=steps, output_type="np", **options)

    return run


def shares(run: Run, units: int, kinds: list[str]) -> dict[str, str]:
    """The share of each kind of work in some units."""
    with named(nn.utils, "clip_grad_norm_", "clip_grad_norm"):
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile, record_function("all of it"):
            run(units)
    times: Counter[str] = Counter()
    for event in profile.events():
        times[kind_of(event)] += event.self_cpu_time_total
    return {kind: f"{100 * times[kind] / times.total():.0f} %" if times[kind] else "-" for kind in kinds}


def main() -> None:
    parser = options(__doc__, blocks=7, block_seconds=1.0)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=["training", "sampling"], help="What to measure.")
    parser.add_argument("--dataset_name", default="mnist-mini", help="Gray images of 28x28.")
    given = parser.parse_args()
    logging.disable(logging.INFO)
    compare_training(given) if given.kind == "training" else compare_sampling(given)


if __name__ == "__main__":
    main()
