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
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from devices import compiled, device_of, device_option, result_name
from interleave import Goal, Variant, measure, options, record
from PIL import ImageOps
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_shuffle, pixel_unshuffle

import hfgen
from hfgen.data.images import Images, decode_images
from hfgen.settings.resolve import resolve
from hfgen_flow.glow import GlowPipeline
from hfgen_flow.realnvp import RealNVP, RealNVPPipeline

try:
    import normflows
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms import (
        ActNorm,
        AffineCouplingTransform,
        CompositeTransform,
        MultiscaleCompositeTransform,
        OneByOneConvolution,
        SqueezeTransform,
    )
except ImportError as error:
    raise SystemExit(
        f"This compares hfgen with normflows and nflows, which cannot be imported here: {error}\n"
        "Install them into this environment: pip install normflows==1.7.3 nflows==0.14"
    ) from error

BATCH, LEVELS, STEPS, HIDDEN, LEARNING_RATE = 64, 3, 8, 128, 1e-4
GLOW_SIZE, REALNVP_SIZE = 32, 28
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


# --- normflows --------------------------------------------------------------------------------------------------


def normflows_glow() -> Any:
    """As its documentation builds Glow, unconditional."""
    bases, flows, merges = [], [], []
    for level in range(LEVELS):
        channels = 2 ** (LEVELS + 1 - level)
        blocks = [normflows.flows.GlowBlock(channels, HIDDEN) for _ in range(STEPS)]
        flows.append([*blocks, normflows.flows.Squeeze()])
        side = GLOW_SIZE // 2 ** (LEVELS - level)
        if level > 0:
            merges.append(normflows.flows.Merge())
        bases.append(normflows.distributions.GlowBase((channels // 2 if level else channels, side, side)))
    return normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)


def normflows_round_trip(model: Any, v: Tensor) -> Tensor:
    return model.forward_and_log_det(model.inverse_and_log_det(v - 0.5)[0])[0] + 0.5


# --- nflows -----------------------------------------------------------------------------------------------------


class CouplingNetwork(nn.Module):
    """Of the same layers as the others': nflows has none of Glow's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        last = nn.Conv2d(HIDDEN, outputs, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first, middle = nn.Conv2d(inputs, HIDDEN, 3, padding=1), nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.layers = nn.Sequential(first, nn.ReLU(inplace=True), middle, nn.ReLU(inplace=True), last)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return self.layers(x)


def nflows_glow() -> Any:
    """As in the image experiments of Durkan et al. 2019, arXiv:1906.04032, with affine couplings."""
    transform = MultiscaleCompositeTransform(LEVELS)
    shape = (1, GLOW_SIZE, GLOW_SIZE)
    for _ in range(LEVELS):
        squeeze = SqueezeTransform()
        shape = squeeze.get_output_shape(*shape)
        channels = shape[0]
        mask = [int(place >= channels // 2) for place in range(channels)]
        steps = [
            CompositeTransform(
                [ActNorm(channels), OneByOneConvolution(channels), AffineCouplingTransform(mask, CouplingNetwork)]
            )
            for _ in range(STEPS)
        ]
        shape = transform.add_transform(CompositeTransform([squeeze, *steps, OneByOneConvolution(channels)]), shape)
    return Flow(transform, StandardNormal([GLOW_SIZE**2]))


def nflows_round_trip(model: Any, v: Tensor) -> Tensor:
    return model._transform.inverse(model.transform_to_noise(v - 0.5))[0] + 0.5


# --- by hand ----------------------------------------------------------------------------------------------------


class PlainConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias, self.logs = nn.Parameter(torch.empty(outputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (conv2d(x, self.weight, padding=1) + self.bias[:, None, None]) * self.logs.exp()[:, None, None]


class PlainZeroConv(PlainConv):
    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, padding=1) * torch.exp(3 * self.logs)[:, None, None]


class PlainNetwork(nn.Module):
    """Residual blocks between two convolutions; no normalization over the batch."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = PlainConv(inputs, width)
        pairs = [nn.ModuleList([PlainConv(width, width), PlainZeroConv(width, width)]) for _ in range(blocks)]
        self.blocks = nn.ModuleList(pairs)
        self.last = PlainZeroConv(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for first, second in self.blocks:
            x = x + second(torch.relu(first(torch.relu(x))))
        return self.last(torch.relu(x))


class PlainActNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias, self.logs = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + self.bias[:, None, None]) * self.logs.exp()[:, None, None], self.logs.sum() * x[0, 0].numel()

    def inverse(self, y: Tensor) -> Tensor:
        return y * torch.exp(-self.logs)[:, None, None] - self.bias[:, None, None]


class PlainCoupling(nn.Module):
    """y = x e^s + t where the mask is 0; a mask of pixels is one more input of the network."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(outputs))
        self.network = PlainNetwork(inputs, 2 * outputs, width, blocks)

    def shift_and_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.network(x).float()
        return h[:, 0::2], self.scale[:, None, None] * torch.tanh(h[:, 1::2])


class PlainCheckerboard(PlainCoupling):
    def __init__(self, channels: int, side: int, parity: int, width: int, blocks: int) -> None:
        super().__init__(channels + 1, channels, width, blocks)
        place = torch.arange(side)
        self.register_buffer("mask", ((place[:, None] + place + parity) % 2 == 0).float())

    def moved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t, s = self.shift_and_scale(torch.cat([x * self.mask, self.mask.expand(len(x), 1, -1, -1)], 1))
        return t * (1 - self.mask), s * (1 - self.mask)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t, s = self.moved(x)
        return x * s.exp() + t, s.sum((1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        t, s = self.moved(y)
        return (y - t) * torch.exp(-s)


class PlainChannels(PlainCoupling):
    def __init__(self, channels: int, reverse: bool, width: int, blocks: int) -> None:
        super().__init__(channels // 2, channels // 2, width, blocks)
        self.reverse = reverse

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, 1)
        return (second, first) if self.reverse else (first, second)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.reverse else [kept, moved], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self.parts(x)
        t, s = self.shift_and_scale(kept)
        return self.join(kept, moved * s.exp() + t), s.sum((1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = self.parts(y)
        t, s = self.shift_and_scale(kept)
        return self.join(kept, (moved - t) * torch.exp(-s))


class PlainRealNVP(nn.Module):
    """Two scales, with the layers of hfgen's default and its order of parameters, of logit(low + scale v)."""

    ORDER = (0, 3, 1, 2)

    def __init__(self, side: int, width: int, blocks: int, couplings: int, low: float, scale: float) -> None:
        super().__init__()
        self.low, self.scale = low, scale
        boards = [PlainCheckerboard(1, side, number % 2, width, blocks) for number in range(couplings)]
        channels = [PlainChannels(4, bool(number % 2), 2 * width, blocks) for number in range(couplings)]
        last = [PlainCheckerboard(2, side // 2, number % 2, 2 * width, blocks) for number in range(couplings + 1)]
        self.boards = nn.ModuleList(layer for board in boards for layer in (board, PlainActNorm(1)))
        self.channels = nn.ModuleList(layer for coupling in channels for layer in (coupling, PlainActNorm(4)))
        self.last = nn.ModuleList(layer for board in last for layer in (board, PlainActNorm(2)))

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        y, rest = self.low + self.scale * v, 1 - self.low - self.scale + self.scale * (1 - v)
        x, log_det = y.log() - rest.log(), (math.log(self.scale) - y.log() - rest.log()).sum((1, 2, 3))
        for layer in self.boards:
            x, term = layer(x)
            log_det = log_det + term
        x = pixel_unshuffle(x, 2)
        for layer in self.channels:
            x, term = layer(x)
            log_det = log_det + term
        x, z = pixel_unshuffle(pixel_shuffle(x, 2), 2)[:, self.ORDER].chunk(2, 1)
        for layer in self.last:
            x, term = layer(x)
            log_det = log_det + term
        return torch.cat([z.flatten(1), x.flatten(1)], 1), log_det

    def inverse(self, latents: Tensor) -> Tensor:
        side = self.last[0].mask.shape[0]
        z, x = latents.unflatten(1, (4, side, side)).chunk(2, 1)
        for layer in reversed(self.last):
            x = layer.inverse(x)
        x = torch.cat([x, z], 1)[:, [self.ORDER.index(place) for place in range(4)]]
        for layer in reversed(self.channels):
            x = layer.inverse(x)
        x = pixel_shuffle(x, 2)
        for layer in reversed(self.boards):
            x = layer.inverse(x)
        return (torch.sigmoid(x) - self.low) / self.scale

    def loss(self, v: Tensor) -> Tensor:
        z, log_det = self(v)
        nats = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1) + log_det
        return 8 - nats.mean() / (z.shape[1] * math.log(2))


def plain_realnvp(flow: RealNVP) -> PlainRealNVP:
    """With hfgen's weights; both compute the same function."""
    config, logit = flow.config, flow.preprocess
    sizes = config.sample_size, config.hidden_channels, config.num_blocks, config.num_couplings
    device = next(flow.parameters()).device
    model = PlainRealNVP(*sizes, logit.low, logit.scale).to(device)
    with torch.no_grad():
        for theirs, ours in zip(model.parameters(), flow.parameters(), strict=True):
            theirs.copy_(ours)
        v = torch.rand(4, 1, config.sample_size, config.sample_size, device=device)
        for plain, found in zip(model(v), flow(v), strict=True):
            torch.testing.assert_close(plain, found, rtol=1e-4, atol=1e-3)
    return model


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
        glow = {"num_levels": LEVELS, "num_steps": STEPS, "hidden_channels": HIDDEN} if family == "glow" else {}
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
    images, device = padded(digits, GLOW_SIZE), device_of(given)
    pixels = decode_images(images, GLOW_SIZE, center_crop=True).to(device)
    theirs, others = normflows_glow(), nflows_glow()
    tuned = nflows_glow().to(memory_format=torch.channels_last)
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
            "nflows, its best": plain_loop(tuned, nflows_loss(tuned), pixels, fused=True),
            **{name: training.run for name, training in ours.items()},
        }
        counts = glow_counts(theirs, others, ours["hfgen fp32"].pipeline.flow)
        plain = {"networks, latents": "fp32, fp32"}
        facts = {name: ours[name].facts() if name in ours else plain for name in runs}
        variants = [Variant(name, run, {**facts[name], **peak_memory(run)}, BATCH) for name, run in runs.items()]
        blocks = measure(variants, given)
    used = {
        "ms": f"per step of {BATCH} images, {GLOW_SIZE}x{GLOW_SIZE}x1, of {digits.name}",
        "Glow": f"L = {LEVELS}, K = {STEPS}, width {HIDDEN}, Adam {LEARNING_RATE}",
        "parameters": counts,
        "nflows, its best": "channels last, fused Adam",
        "threads": torch.get_num_threads(),
    }
    name = result_name("flow_glow_training", device)
    record(name, variants, blocks, given, ["normflows", "nflows"], TRAINING_GOALS, used)


def nflows_loss(model: Any) -> Loss:
    return lambda v: -model.log_prob((v - 0.5).contiguous(memory_format=torch.channels_last)).mean()


def glow_counts(theirs: Any, others: Any, ours: Any) -> str:
    counts = [parameters(model) for model in (theirs, others, ours)]
    assert max(counts) < 1.03 * min(counts), counts
    return "normflows {:,}, nflows {:,}, hfgen {:,}".format(*counts)


def glow_sampling(digits: Images, given: argparse.Namespace) -> None:
    images = padded(digits, GLOW_SIZE)
    pixels = decode_images(images, GLOW_SIZE, center_crop=True)
    theirs, others = normflows_glow(), nflows_glow()
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
            round_trip(lambda v: normflows_round_trip(theirs, v), v),
            BATCH,
        ),
        Variant(
            "nflows",
            repeated(lambda: others.sample(BATCH)),
            round_trip(lambda v: nflows_round_trip(others, v), v),
            BATCH,
        ),
        *hfgen_sampling({"hfgen fp32": pipeline, "hfgen bf16": bf16}, images, v),
    ]
    blocks = measure(variants, given)
    used = {
        "ms": f"per {BATCH} images, {GLOW_SIZE}x{GLOW_SIZE}x1",
        "Glow": f"L = {LEVELS}, K = {STEPS}, width {HIDDEN}, after {WARM_UP} steps of training",
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
