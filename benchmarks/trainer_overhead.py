"""What hfgen's Trainer adds to a step: an MLP so small that little else remains.

    python benchmarks/trainer_overhead.py

The same network, batches, loss and fused AdamW three times: a bare PyTorch loop, that loop through Accelerate's
`prepare` and `backward`, and hfgen's Trainer with a run folder and metrics every 50 steps.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from devices import device_of, device_option, result_name
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from interleave import Goal, Variant, measure, options, record
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import hfgen
from hfgen.data.decoding import Decoding
from hfgen.data.image_batches import image_batches
from hfgen.data.images import Images
from hfgen.data.layout import Layout
from hfgen.objective import Batch
from hfgen.processes.world import make_accelerator
from hfgen.settings.resolve import resolve
from hfgen.training.optimizers import make_optimizer

PIXELS, HIDDEN, BATCH = 784, 16, 64


class TinyAutoencoder(ModelMixin, ConfigMixin):
    """784-16-784."""

    @register_to_config
    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TinyObjective(hfgen.Objective):
    """Mean squared error of the reconstruction."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def training_step(self, batch: Batch) -> Iterator[hfgen.Update]:
        yield hfgen.Update("network", reconstruction_loss(self.network, batch))


class TinyPipeline(hfgen.HFGenPipeline):
    """The least that the Trainer trains."""

    objective_class = TinyObjective

    def __init__(self, network: TinyAutoencoder) -> None:
        super().__init__()
        self.register_modules(network=network)

    @classmethod
    def default_configs(cls, *shape: Any) -> dict[str, dict[str, Any]]:
        return {}


def reconstruction_loss(network: nn.Module, batch: Batch) -> Tensor:
    x = batch["pixel_values"].flatten(1)
    return mse_loss(network(x), x)


def settings() -> Any:
    hfgen.register_family("tiny-autoencoder", TinyPipeline)
    given = {
        "train_batch_size": BATCH,
        "max_train_steps": 10**9,
        "learning_rate": 1e-3,
        "use_ema": False,
        "checkpointing_steps": 0,
        "validation_steps": 0,
    }
    return resolve([("benchmark", given)], "tiny-autoencoder", TinyPipeline).arguments


def batches(images: Images, device: torch.device) -> Iterator[Batch]:
    """The very batches that the Trainer gets, without its bookkeeping of micro-batches."""
    source = image_batches(images, Decoding(28), Layout(BATCH), device=device)
    assert source.pixels is not None
    for epoch in itertools.count():
        order = source._permutation(epoch)
        for start in range(0, source.steps_per_epoch * BATCH, BATCH):
            pixels = source.pixels.index_select(0, order[start : start + BATCH])
            yield {"pixel_values": pixels.float().div_(127.5).sub_(1)}


def bare_loop(images: Images, device: torch.device, accelerator: Any = None) -> Callable[[int], None]:
    """The loop as one writes it by hand; through Accelerate where one is given."""
    network = TinyPipeline.build(28, 1).network.train().to(device)
    optimizer = make_optimizer(network, settings())
    if accelerator is not None:
        network, optimizer = accelerator.prepare(network, optimizer)
    backward = Tensor.backward if accelerator is None else accelerator.backward
    source = batches(images, device)

    def run(steps: int) -> None:
        for batch in itertools.islice(source, steps):
            backward(reconstruction_loss(network, batch))
            optimizer.step()
            optimizer.zero_grad()

    return run


def trainer_loop(images: Images, stack: contextlib.ExitStack) -> Callable[[int], None]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    source = hfgen.Trainer(TinyPipeline.build(28, 1), images, settings(), folder).steps()
    stack.callback(source.close)

    def run(steps: int) -> None:
        for _ in itertools.islice(source, steps):
            pass

    return run


def main() -> None:
    parser = options(__doc__, blocks=15, block_seconds=0.5)
    device_option(parser)
    arguments = parser.parse_args()
    device = device_of(arguments)
    torch.set_num_threads(1)
    images = hfgen.load_images("mnist-mini")
    with contextlib.ExitStack() as stack:
        variants = [
            Variant("bare loop", bare_loop(images, device)),
            Variant("Accelerate", bare_loop(images, device, make_accelerator(settings()))),
            Variant("hfgen Trainer", trainer_loop(images, stack)),
        ]
        blocks = measure(variants, arguments)
    goals = [Goal("hfgen Trainer", "extra_ms", 0.25, "bare loop"), Goal("hfgen Trainer", "ratio", 0.65, "bare loop")]
    network = f"{PIXELS}-{HIDDEN}-{PIXELS}"
    used = {"network": network, "batch": BATCH, "threads": 1, "ms": "per step"}
    record(result_name("trainer_overhead", device), variants, blocks, arguments, ["bare loop"], goals, used)


if __name__ == "__main__":
    main()
