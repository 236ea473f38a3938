"""Time to the first step of a training: fresh processes of `hfgen train`, and of a script like diffusers' example.

    python benchmarks/first_step.py

Each process is timed from its start until it tells of its first optimizer step, and is then killed. Files are in the
system's cache, and so is what `datasets` makes of the folder of images.

"diffusers' script" has the imports of examples/unconditional_image_generation/train_unconditional.py but torchvision
and the Hub, reads the same 1,000 images through `datasets`, decodes those of a batch when it is asked for, and takes
one step of the same UNet through Accelerate. hfgen decodes all images first, and writes its config before it trains.
"Imports" is what both cannot do without.
"""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from interleave import Goal, Variant, measure, options, record

import hfgen

IMAGES, BATCH = 1000, 64
IMPORTS = "import torch, accelerate, datasets, diffusers; from diffusers import DDPMPipeline, UNet2DModel"
SCRIPT = """
import inspect, logging, math, os, shutil, sys
from datetime import timedelta
from pathlib import Path
import accelerate, datasets, numpy, torch
import torch.nn.functional as F
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.logging import get_logger
from accelerate.utils import ProjectConfiguration
from datasets import load_dataset
from packaging import version
from tqdm.auto import tqdm
import diffusers
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

accelerator = Accelerator(cpu=True)
model = UNet2DModel(**{config})
scheduler = DDPMScheduler(num_train_timesteps=1000)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
images = load_dataset("imagefolder", data_dir=sys.argv[1], split="train")

def transformed(examples):
    arrays = [numpy.array(image.convert("L")) for image in examples["image"]]
    return {{"input": [torch.from_numpy(array).float()[None] / 127.5 - 1 for array in arrays]}}

images.set_transform(transformed)
loader = torch.utils.data.DataLoader(images, batch_size=int(sys.argv[2]), shuffle=True)
lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=1000)
model, optimizer, loader, lr_scheduler = accelerator.prepare(model, optimizer, loader, lr_scheduler)
for batch in loader:
    clean = batch["input"]
    noise = torch.randn(clean.shape)
    t = torch.randint(0, 1000, (len(clean),))
    with accelerator.accumulate(model):
        loss = F.mse_loss(model(scheduler.add_noise(clean, noise, t), t).sample, noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    print("step 1/", loss.detach().item(), file=sys.stderr, flush=True)
    break
"""


def write_images(folder: Path) -> None:
    images = hfgen.load_images("mnist-mini")
    for index in range(IMAGES):
        images.open_image(index).save(folder / f"{index:04d}.png")


def script() -> str:
    """With the UNet that `hfgen train ddpm` has by default."""
    from hfgen.registry import get_family

    config = get_family("ddpm").load().build(28, 1).unet.config
    return SCRIPT.format(config={name: value for name, value in config.items() if not name.startswith("_")})


def to_first_step(command: Callable[[], list[str]], environment: dict[str, str]) -> Callable[[int], None]:
    """Runs so many processes, each until it has said so."""

    def run(count: int) -> None:
        for _ in range(count):
            process = subprocess.Popen(
                command(), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            try:
                wait_for_first_step(process)
            finally:
                process.kill()
                process.wait()

    return run


def wait_for_first_step(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    said = []
    with process.stderr:
        for line in process.stderr:
            if line.startswith("step 1/"):
                return
            said.append(line)
    raise SystemExit("A process ended before its first step:\n" + "".join(said[-20:]))


def hfgen_train(folder: Path, *words: str) -> Callable[[], list[str]]:
    """Each time with another run folder."""
    numbers = itertools.count()
    quiet = ["--logging_steps", "1", "--validation_steps", "0", "--checkpointing_steps", "0"]
    program = str(Path(sys.executable).parent / "hfgen")

    def command() -> list[str]:
        output = ["--output_dir", str(folder / f"{words[0]}-{next(numbers)}")]
        return [program, "train", *words, "--train_batch_size", str(BATCH), *quiet, *output]

    return command


def main() -> None:
    arguments = options(__doc__, blocks=7, block_seconds=0.1).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        images, runs = Path(temporary) / "images", Path(temporary) / "runs"
        images.mkdir()
        write_images(images)
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(Path(temporary) / "cache")}
        environment = {**os.environ, **offline, "CUDA_VISIBLE_DEVICES": ""}
        peer = [sys.executable, "-c", script(), str(images), str(BATCH)]
        commands: dict[str, Callable[[], list[str]]] = {
            "imports": lambda: [sys.executable, "-c", f"{IMPORTS}\nimport sys; print('step 1/', file=sys.stderr)"],
            "diffusers' script": lambda: peer,
            "hfgen train ddpm": hfgen_train(runs, "ddpm", "--train_data_dir", str(images)),
            "hfgen train dcgan, mnist-mini": hfgen_train(runs, "dcgan", "--dataset_name", "mnist-mini"),
        }
        variants = [Variant(name, to_first_step(command, environment)) for name, command in commands.items()]
        blocks = measure(variants, arguments)
    settings = {"ms": f"from the start of a process to its first step, of {BATCH} images", "images": IMAGES}
    goals = [Goal("hfgen train ddpm", "ratio", 1.0, "diffusers' script")]
    record("first_step", variants, blocks, arguments, ["diffusers' script", "imports"], goals, settings)


if __name__ == "__main__":
    main()
