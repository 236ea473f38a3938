"""Glow beside normflows and nflows, and RealNVP beside a plain module: training steps and sampling, on the CPU.

    pip install normflows==1.7.3 nflows==0.14       # the peers; hfgen never needs them
    python benchmarks/flow_speed.py
    python benchmarks/flow_speed.py --cases glow_training

Data: MNIST digits as bytes; each batch is dequantized anew, v = (x + u) / 256, and each side trains on v - 1/2
(RealNVP: on its logit of v). hfgen is the Trainer of `hfgen train`, metrics and run folder included.

Glow: 3 levels of 8 steps, width 128, on 1x32x32 (padded digits), in each library's customary form; the parameter
counts are compared. What differs, because each side's own parts are used as they are:

- normflows: `MultiscaleFlow` of `GlowBlock`, each level with a learned `GlowBase`; no actnorm in coupling networks.
- nflows: `MultiscaleCompositeTransform` as in the image experiments of Neural Spline Flows, each level ending in a
  1x1 convolution; its latents' prior is fixed, N(0, 1); no actnorm in coupling networks. "Its best": with channels
  last and fused Adam.
- hfgen: actnorm in coupling networks, learned priors of what each level factors out. With the family's defaults it
  also clips gradients and keeps a moving average; the other rows leave both out, as the peers do.

RealNVP: the family's defaults on 1x28x28, and a module written by hand of the same layers, with the same weights.
"""

import argparse
import contextlib
import copy
import dataclasses
import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import other_glows as glows
import torch
from devices import compiled, device_of, device_option, result_name
from interleave import Goal, Variant, measure, options, record
from PIL import ImageOps
from plain_realnvp import PlainRealNVP, plain_realnvp
from torch import Tensor, nn

import hfgen
from hfgen.data.images import Images, decode_images
from hfgen.settings.resolve import resolve
from hfgen_flow.glow import GlowPipeline
from hfgen_flow.realnvp import RealNVPPipeline

BATCH, LEARNING_RATE, REALNVP_SIZE = 64, 1e-4, 28
WARM_UP = 10  # training steps before a flow is sampled from
FAMILIES = {"glow": GlowPipeline, "realnvp": RealNVPPipeline}
Run = Callable[[int], Any]
Loss = Callable[[Tensor], Tensor]


# --- data -------------------------------------------------------------------------------------------------------


def padded(images: Images, side: int) -> Images:
    """Zeros round images that are smaller."""
    border = (side - images.resolution()) // 2
    return dataclasses.replace(
        images,
        open_image=lambda index: ImageOps.expand(images.open_image(index), border),
        sizes=Counter({(side, side): len(images)}),
    )


def batches(pixels: Tensor) -> Iterator[Tensor]:
    """Dequantized: floats in [0, 1)."""
    while True:
        for rows in torch.randperm(len(pixels), device=pixels.device).split(BATCH)[: len(pixels) // BATCH]:
            x = pixels.index_select(0, rows).float()
            yield (x + torch.rand_like(x)) / 256


def plain_loop(model: nn.Module, loss: Loss, pixels: Tensor, bf16: bool = False, fused: bool = False) -> Run:
    """The least that training could be: resident bytes, no metrics, no run folder."""
    device = pixels.device
    optimizer = torch.optim.Adam(model.to(device).parameters(), lr=LEARNING_RATE, fused=fused)
    source = batches(pixels)

    def run(steps: int) -> None:
        for v in itertools.islice(source, steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                value = loss(v)
            value.backward()
            optimizer.step()

    return run


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- hfgen ------------------------------------------------------------------------------------------------------


class Training:
    """hfgen's own loop, advanced step by step."""

    def __init__(self, family: str, images: Images, stack: contextlib.ExitStack, **given: Any) -> None:
        pipeline_class = FAMILIES[family]
        given = {
            "train_batch_size": BATCH,
            "learning_rate": LEARNING_RATE,
            "max_train_steps": 10**9,
            "checkpointing_steps": 0,
            "validation_steps": 0,
            "use_ema": False,
            "max_grad_norm": 0.0,
            **given,
        }
        arguments = resolve([("benchmark", given)], family, pipeline_class).arguments
        glow = glows.OPTIONS if family == "glow" else {}
        self.pipeline: Any = pipeline_class.build(images.resolution(), images.channels, flow=glow)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.trainer = hfgen.Trainer(self.pipeline, images, arguments, folder)
        self.steps = self.trainer.steps()
        stack.callback(self.steps.close)

    def run(self, steps: int) -> None:
        for _ in itertools.islice(self.steps, steps):
            pass

    def facts(self) -> dict[str, str]:
        """The precision that coupling networks and latents really have."""
        seen: list[str] = []
        network = next(part for name, part in self.pipeline.flow.named_modules() if name.endswith("network"))
        hooks = [
            network.first.register_forward_hook(lambda m, inputs, output: seen.append(short(output.dtype))),
            self.pipeline.flow.register_forward_hook(lambda m, inputs, output: seen.append(short(output[0].dtype))),
        ]
        self.run(1)
        for hook in hooks:
            hook.remove()
        return {"networks, latents": f"{seen[-2]}, {seen[-1]}"} if len(seen) > 1 else {}  # compiled, none is called


def short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def defaults(family: str) -> dict[str, Any]:
    """What the rows beside the peers leave out."""
    given = FAMILIES[family].training_defaults
    return {name: given[name] for name in ("use_ema", "max_grad_norm")}


def in_bf16(pipeline: Any) -> Any:
    """As loaded with torch_dtype=torch.bfloat16."""
    return copy.deepcopy(pipeline).to(torch.bfloat16)


def sampling(pipeline: Any) -> Run:
    """Of images, as users draw them: noise of each image's own seed, rounded down to bytes."""
    first_seeds = itertools.count(0, BATCH)

    def run(units: int) -> None:
        for start in itertools.islice(first_seeds, units):
            pipeline(seeds=range(start, start + BATCH), output_type="pt")

    return run


def repeated(sample: Callable[[], Any]) -> Run:
    def run(units: int) -> None:
        with torch.no_grad():
            for _ in range(units):
                sample()

    return run


# --- memory and exactness ---------------------------------------------------------------------------------------


def peak_memory(run: Run) -> dict[str, str]:
    """The most that one step allocates through torch above what it found, gradients included."""
    run(1)
    if torch.accelerator.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(1)
        return {"peak of a step, MiB": f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run(1)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return {"peak of a step, MiB": f"{max(itertools.accumulate(sizes)) / 2**20:.0f}"}


@torch.no_grad()
def round_trip(there_and_back: Callable[[Tensor], Tensor], v: Tensor) -> dict[str, str]:
    """The largest error of a pixel, of a range of 1, in the precision in which the flow samples."""
    return {"round trip, max error": f"{float((there_and_back(v) - v).abs().max()):.1e}"}


def certificate(pipeline: Any, images: Images) -> dict[str, str]:
    """hfgen's own round trip, which is computed in float32."""
    trip = pipeline.round_trip(images.tensor(range(BATCH)))
    return {"certificate": f"{trip.max_error:.1e}, {trip.changed_values} bytes changed"}


# --- side by side -----------------------------------------------------------------------------------------------

TRAINING_GOALS = [
    Goal("hfgen fp32", "ratio", 1.3, "normflows"),
    Goal("hfgen fp32", "ratio", 1.0, "nflows"),
    Goal("hfgen fp32", "ratio", 1.0, "nflows, its best"),
    Goal("hfgen bf16", "ratio", 1.5, "nflows"),
]
SAMPLING_GOALS = [
    Goal(name, "ratio", value, peer)
    for name, value in (("hfgen fp32", 1.0), ("hfgen bf16", 1.6))
    for peer in ("normflows", "nflows")
]


def glow_training(digits: Images, given: argparse.Namespace) -> None:
    images, device = padded(digits, glows.GLOW_SIZE), device_of(given)
    pixels = decode_images(images, glows.GLOW_SIZE, center_crop=True).to(device)
    theirs, others = glows.normflows_glow(), glows.nflows_glow()
    tuned = glows.nflows_glow().to(memory_format=torch.channels_last)
    with contextlib.ExitStack() as stack:
        ours = {
            "hfgen fp32": Training("glow", images, stack),
            "hfgen fp32, its defaults": Training("glow", images, stack, **defaults("glow")),
            "hfgen bf16": Training("glow", images, stack, mixed_precision="bf16"),
            **{name: Training("glow", images, stack, **rest) for name, rest in compiled(device).items()},
        }
        runs: dict[str, Run] = {
            "normflows": plain_loop(theirs, lambda v: theirs.forward_kld(v - 0.5), pixels),
            "nflows": plain_loop(others, lambda v: -others.log_prob(v - 0.5).mean(), pixels),
            "nflows, its best": plain_loop(tuned, glows.nflows_loss(tuned), pixels, fused=True),
            **{name: training.run for name, training in ours.items()},
        }
        counts = glow_counts(theirs, others, ours["hfgen fp32"].pipeline.flow)
        plain = {"networks, latents": "fp32, fp32"}
        facts = {name: ours[name].facts() if name in ours else plain for name in runs}
        variants = [Variant(name, run, {**facts[name], **peak_memory(run)}, BATCH) for name, run in runs.items()]
        blocks = measure(variants, given)
    used = {
        "ms": f"per step of {BATCH} images, {glows.GLOW_SIZE}x{glows.GLOW_SIZE}x1, of {digits.name}",
        "Glow": f"L = {glows.LEVELS}, K = {glows.STEPS}, width {glows.HIDDEN}, Adam {LEARNING_RATE}",
        "parameters": counts,
        "nflows, its best": "channels last, fused Adam",
        "threads": torch.get_num_threads(),
    }
    name = result_name("flow_glow_training", device)
    record(name, variants, blocks, given, ["normflows", "nflows"], TRAINING_GOALS, used)


def glow_counts(theirs: Any, others: Any, ours: Any) -> str:
    counts = [parameters(model) for model in (theirs, others, ours)]
    assert max(counts) < 1.03 * min(counts), counts
    return "normflows {:,}, nflows {:,}, hfgen {:,}".format(*counts)


def glow_sampling(digits: Images, given: argparse.Namespace) -> None:
    images = padded(digits, glows.GLOW_SIZE)
    pixels = decode_images(images, glows.GLOW_SIZE, center_crop=True)
    theirs, others = glows.normflows_glow(), glows.nflows_glow()
    plain_loop(theirs, lambda v: theirs.forward_kld(v - 0.5), pixels)(WARM_UP)
    plain_loop(others, lambda v: -others.log_prob(v - 0.5).mean(), pixels)(WARM_UP)
    pipeline = trained("glow", images)
    bf16, flow = in_bf16(pipeline), pipeline.flow.eval()
    for model in (theirs, others, bf16.flow):
        model.eval()
    v = next(batches(pixels))
    variants = [
        Variant(
            "normflows",
            repeated(lambda: theirs.sample(BATCH)),
            round_trip(lambda v: glows.normflows_round_trip(theirs, v), v),
            BATCH,
        ),
        Variant(
            "nflows",
            repeated(lambda: others.sample(BATCH)),
            round_trip(lambda v: glows.nflows_round_trip(others, v), v),
            BATCH,
        ),
        *hfgen_sampling({"hfgen fp32": pipeline, "hfgen bf16": bf16}, images, v),
    ]
    blocks = measure(variants, given)
    used = {
        "ms": f"per {BATCH} images, {glows.GLOW_SIZE}x{glows.GLOW_SIZE}x1",
        "Glow": f"L = {glows.LEVELS}, K = {glows.STEPS}, width {glows.HIDDEN}, after {WARM_UP} steps of training",
        "parameters": glow_counts(theirs, others, flow),
        "threads": torch.get_num_threads(),
    }
    record("flow_glow_sampling", variants, blocks, given, ["normflows", "nflows"], SAMPLING_GOALS, used)


def trained(family: str, images: Images) -> Any:
    with contextlib.ExitStack() as stack:
        training = Training(family, images, stack)
        training.run(WARM_UP)
        return training.pipeline


def hfgen_sampling(pipelines: dict[str, Any], images: Images, v: Tensor) -> list[Variant]:
    return [
        Variant(
            name,
            sampling(pipeline),
            {**round_trip(lambda v, flow=pipeline.flow: flow.inverse(flow(v)[0]), v), **certificate(pipeline, images)},
            BATCH,
        )
        for name, pipeline in pipelines.items()
    ]


def realnvp_training(digits: Images, given: argparse.Namespace) -> None:
    device = device_of(given)
    pixels = decode_images(digits, REALNVP_SIZE, center_crop=True).to(device)
    with contextlib.ExitStack() as stack:
        ours = {
            "hfgen fp32": Training("realnvp", digits, stack),
            "hfgen bf16": Training("realnvp", digits, stack, mixed_precision="bf16"),
            **{name: Training("realnvp", digits, stack, **rest) for name, rest in compiled(device).items()},
        }
        ours["hfgen fp32"].run(1)  # which initializes actnorm
        flow = ours["hfgen fp32"].pipeline.flow
        plain, half = plain_realnvp(flow), plain_realnvp(flow)
        tuned = plain_realnvp(flow).to(memory_format=torch.channels_last)
        runs: dict[str, Run] = {
            "by hand, fp32": plain_loop(plain, plain.loss, pixels),
            "by hand, fp32, tuned": plain_loop(tuned, plain_loss(tuned), pixels, fused=True),
            "by hand, bf16": plain_loop(half, half.loss, pixels, bf16=True),
            **{name: training.run for name, training in ours.items()},
        }
        facts = {name: training.facts() for name, training in ours.items()}
        variants = [
            Variant(name, run, {**facts.get(name, {}), **peak_memory(run)}, BATCH) for name, run in runs.items()
        ]
        blocks = measure(variants, given)
    used = {
        "ms": f"per step of {BATCH} images, {REALNVP_SIZE}x{REALNVP_SIZE}x1, of {digits.name}",
        "parameters": f"{parameters(plain):,} on both sides",
        "tuned": "channels last, fused Adam",
        "threads": torch.get_num_threads(),
    }
    goals = [Goal("hfgen fp32", "ratio", 1.0, "by hand, fp32"), Goal("hfgen bf16", "ratio", 1.0, "by hand, bf16")]
    record(result_name("flow_realnvp_training", device), variants, blocks, given, ["by hand, fp32"], goals, used)


def plain_loss(model: PlainRealNVP) -> Loss:
    return lambda v: model.loss(v.contiguous(memory_format=torch.channels_last))


def realnvp_sampling(digits: Images, given: argparse.Namespace) -> None:
    pixels = decode_images(digits, REALNVP_SIZE, center_crop=True)
    pipeline = trained("realnvp", digits)
    bf16 = in_bf16(pipeline)
    plain = plain_realnvp(pipeline.flow)
    v = next(batches(pixels))

    def by_hand() -> Tensor:
        return (plain.inverse(torch.randn(BATCH, REALNVP_SIZE**2)) * 256).floor().clamp(0, 255) / 255

    def by_hand_in_bf16() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return by_hand()

    variants = [
        Variant("by hand, fp32", repeated(by_hand), round_trip(lambda v: plain.inverse(plain(v)[0]), v), BATCH),
        Variant("by hand, bf16", repeated(by_hand_in_bf16), {}, BATCH),
        *hfgen_sampling({"hfgen fp32": pipeline, "hfgen bf16": bf16}, digits, v),
    ]
    blocks = measure(variants, given)
    used = {
        "ms": f"per {BATCH} images, {REALNVP_SIZE}x{REALNVP_SIZE}x1",
        "weights": f"the same on both sides, after {WARM_UP} steps of training",
        "parameters": f"{parameters(plain):,}",
        "threads": torch.get_num_threads(),
    }
    goals = [Goal("hfgen fp32", "ratio", 1.0, "by hand, fp32"), Goal("hfgen bf16", "ratio", 1.0, "by hand, bf16")]
    record("flow_realnvp_sampling", variants, blocks, given, ["by hand, fp32"], goals, used)


CASES = {
    "glow_training": glow_training,
    "glow_sampling": glow_sampling,
    "realnvp_training": realnvp_training,
    "realnvp_sampling": realnvp_sampling,
}


def arguments() -> argparse.Namespace:
    parser = options(__doc__, blocks=9, block_seconds=1.0)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="What to measure.")
    device_option(parser)
    parser.add_argument("--dataset_name", default="mnist-mini", help="Gray images of 28x28.")
    parser.add_argument("--threads", type=int, help="Threads of torch (default: its own choice).")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    device = device_of(given)
    if given.threads:
        torch.set_num_threads(given.threads)
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    digits = hfgen.load_images(given.dataset_name)
    for case in given.cases:
        if device.type == "cpu" or case.endswith("training"):
            CASES[case](digits, given)


if __name__ == "__main__":
    main()
