"""Train each built-in family and recipe ten steps, and print a hash of its weights, EMA and optimizer states.

    python scripts/ten_steps.py [NAME ...]

Two commits that train alike print the same lines on the same machine. Networks are small and batches tiny where a
recipe's own would take minutes; every other setting is the recipe's. `PYTHONPATH` chooses the commit.
"""

import hashlib
import sys

from hfgen.commands.recipes import list_recipes, resolve_run
from hfgen.registry import list_families
from hfgen.testing import state
from hfgen.training.start import build, find_images
from hfgen.training.trainer import Trainer

SETTINGS = {"dataset_name": "mnist-mini", "dataset_split": "test", "train_batch_size": 4, "max_train_steps": 10}
UNET = {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
UNET |= {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
SMALL = {  # family -> options of components
    "autoencoder_kl": {"vae": {"block_out_channels": [8, 8], "norm_num_groups": 4}},
    "dcgan": {"generator": {"base_channels": 8}, "discriminator": {"base_channels": 8}},
    "ddpm": {"unet": UNET},
    "glow": {"flow": {"hidden_channels": 8, "num_levels": 2, "num_steps": 2}},
    "realnvp": {"flow": {"hidden_channels": 8}},
}


def digest(target: str) -> str:
    """Train ten steps; return the hash of all that the training changed."""
    model = resolve_run(target, None, {}, {})[0].model
    config, family = resolve_run(target, None, {**SETTINGS, "resolution": 28}, SMALL.get(model, {}))
    images = find_images(config)
    trainer = Trainer(
        build(config, family, images), images, config.arguments, None, config.components.get("objective")
    )
    trainer.train()
    found = hashlib.sha256()
    for name, tensor in sorted(state(trainer).items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return found.hexdigest()[:16]


def main(names: list[str]) -> None:
    for name in names or [*(family.name for family in list_families() if family.is_built_in), *list_recipes()]:
        print(f"{name:24} {digest(name)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
