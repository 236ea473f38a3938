"""The networks of a diffusion for images of a size: diffusers' UNet2DModel, or a JiT; small for small images."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hfgen import UsageError

SMALL = 32  # side up to which the default network is one that a CPU trains
LEAST_LEVELS = 3  # of the default network: with fewer it would see no digit as a whole
CHANNELS = (  # for sides up to: the channels of each level; from 33 on those of Ho et al. 2020, appendix B
    (SMALL, (32, 64, 64)),
    (64, (128, 256, 256, 256)),
    (128, (128, 128, 256, 256, 512)),
    (1 << 30, (128, 128, 256, 256, 512, 512)),
)
ATTENTION_SIDE = 16  # of the feature maps that have attention


JIT_SIDE, JIT_WIDE_SIDE = 6, 16  # most patches in a row: of small images, which a CPU trains, and of others
JIT_SIZES = (  # for sides up to: width, layers, heads; the last is JiT-B of Li & He 2025, table 9
    (SMALL, (128, 4, 4)),
    (64, (384, 12, 6)),
    (1 << 30, (768, 12, 12)),
)
MOST_IN_A_ROW = 32  # patches, above which attention is out of proportion


def network_config(
    sample_size: int, in_channels: int, num_classes: int | None, learns_variance: bool, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of the network that `given` names by `class_name`, by default of a UNet2DModel."""
    make = jit_config if given.get("class_name") == "JiT" else unet_config
    return make(sample_size, in_channels, num_classes, learns_variance, given)


def jit_config(
    sample_size: int, in_channels: int, num_classes: int | None, learns_variance: bool, given: Mapping[str, Any]
) -> dict[str, Any]:
    """A JiT's config for the data's shape, where `given` says nothing else.

    Raises:
        UsageError: no patch divides the images into few enough.
    """
    width, layers, heads = next(sizes for side, sizes in JIT_SIZES if sample_size <= side)
    config: dict[str, Any] = {
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": in_channels * (2 if learns_variance else 1),
        "hidden_size": width,
        "num_layers": layers,
        "num_attention_heads": heads,
        **_labels(num_classes),
    }
    _require_labels(config, given)
    return config if "patch_size" in given else config | {"patch_size": patch_size(sample_size)}


def patch_size(sample_size: int) -> int:
    """The side of a patch, with as many in a row as there may be, or, where no divisor is that large, as few.

    >>> patch_size(28), patch_size(32), patch_size(64), patch_size(256)
    (7, 8, 4, 16)
    """
    most = JIT_SIDE if sample_size <= SMALL else JIT_WIDE_SIDE
    counts = [count for count in range(1, sample_size + 1) if sample_size % count == 0]
    few = [count for count in counts if most // 2 <= count <= most]
    found = max(few) if few else min(count for count in counts if count > most or count == sample_size)
    if found > MOST_IN_A_ROW:
        near = [side for side in range(sample_size - 8, sample_size + 9) if side % 8 == 0 and side > 0]
        raise UsageError(
            f"No patch divides {sample_size}x{sample_size} images into at most {MOST_IN_A_ROW} in a row: give another "
            f"side, --resolution {' or '.join(map(str, near[:2]))},\nor a patch, --unet.patch_size."
        )
    return sample_size // found


def is_jit(network: Any) -> bool:
    """Return True for a JiT; a bundle has copies of that class, so an entry of its config tells."""
    return "patch_size" in network.config


def null_class_of(network: nn.Module) -> int | None:
    """Return the label that stands for no class, of a class-conditional network, wrapped as it may be."""
    configs = (getattr(module, "config", None) for module in network.modules())
    return next((config["_num_classes"] for config in configs if config and config.get("_num_classes")), None)


def unet_config(
    sample_size: int, in_channels: int, num_classes: int | None, learns_variance: bool, given: Mapping[str, Any]
) -> dict[str, Any]:
    """A UNet2DModel's config for the data's shape: as Ho et al. 2020, where `given` says nothing else.

    One attention head as wide as its level's channels: diffusers' default of 8 channels in a head makes attention half
    of a step. Class labels have one more than there are classes, the last one standing for none.

    Raises:
        UsageError: the levels halve the side more often than it can be halved, or do not fit each other.
    """
    channels = list(given.get("block_out_channels", default_channels(sample_size)))
    _check_side(sample_size, len(channels))
    config: dict[str, Any] = {
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": in_channels * (2 if learns_variance else 1),
        "block_out_channels": channels,
        "layers_per_block": 1 if sample_size <= SMALL else 2,
        "attention_head_dim": None,
        "norm_num_groups": _groups(channels),
        "norm_eps": 1e-6,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        **_blocks(sample_size, len(channels)),
    }
    config |= _labels(num_classes)
    _require_labels(config, given)
    for name in ("down_block_types", "up_block_types"):
        if len(given.get(name, channels)) != len(channels):
            raise UsageError(f"--unet.{name} and --unet.block_out_channels, {channels}, must be of equal length.")
    groups = given.get("norm_num_groups", config["norm_num_groups"])
    if groups < 1 or any(c % groups for c in channels):
        raise UsageError(
            f"--unet.norm_num_groups is {groups}; it must divide each of --unet.block_out_channels, {channels}."
        )
    return config


def _labels(num_classes: int | None) -> dict[str, Any]:
    return {} if num_classes is None else {"num_class_embeds": num_classes + 1, "_num_classes": num_classes}


def _require_labels(config: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    labels = {"num_class_embeds": config.get("num_class_embeds"), "class_embed_type": None}
    for name, derived in labels.items():
        if given.get(name, derived) != derived:
            raise UsageError(f"--unet.{name} is {given[name]!r}; it follows from the data's classes: {derived!r}.")


def check_unet(unet: Any) -> None:
    """Raise a UsageError for a network of unknown size, or with labels that are not classes."""
    if unet.config.sample_size is None:
        raise UsageError("--unet.sample_size is not set; it says how large the images are.")
    kind = unet.config.get("class_embed_type")
    if kind is not None:
        raise UsageError(f"--unet.class_embed_type is {kind!r}; only None (class labels) is supported.")


def default_channels(sample_size: int) -> tuple[int, ...]:
    """Return the channels for a size, without the innermost levels for which the side cannot be halved."""
    channels = next(channels for side, channels in CHANNELS if sample_size <= side)
    halvings = (sample_size & -sample_size).bit_length() - 1
    return channels[: max(LEAST_LEVELS, halvings + 1)]


def _blocks(sample_size: int, levels: int) -> dict[str, Any]:
    """Attention where the side is ATTENTION_SIDE, or the first below; of a small network, at its innermost level."""
    sides = [sample_size >> level for level in range(levels)]
    below = [level for level, side in enumerate(sides) if side <= ATTENTION_SIDE]
    chosen = levels - 1 if sample_size <= SMALL or not below else below[0]
    down = ["AttnDownBlock2D" if level == chosen else "DownBlock2D" for level in range(levels)]
    up = ["AttnUpBlock2D" if level == chosen else "UpBlock2D" for level in reversed(range(levels))]
    return {"down_block_types": down, "up_block_types": up}


def _groups(channels: Sequence[int]) -> int:
    """Return the number of groups: at most 32, as in diffusers, of at least 4 channels.

    >>> _groups([128, 256]), _groups([32, 64, 64]), _groups([24, 48])
    (32, 8, 6)
    """
    most = min(32, max(1, min(channels) // 4))
    return max(groups for groups in range(1, most + 1) if all(c % groups == 0 for c in channels))


def _check_side(sample_size: int, levels: int) -> None:
    factor = 2 ** (levels - 1)
    if sample_size % factor or sample_size < factor:
        below = sample_size // factor * factor
        near = " or ".join(str(side) for side in (below, below + factor) if side)
        raise UsageError(
            f"This UNet cannot make {sample_size}x{sample_size} images: its {levels} levels halve the side "
            f"{levels - 1} times.\nTry --resolution {near}, or fewer --unet.block_out_channels."
        )


@contextlib.contextmanager
def channels_last(network: nn.Module) -> Iterator[None]:
    """Put convolutions' weights channels last for a while: sampling is a tenth faster, in bfloat16 up to 1.3 times.

    Afterwards the weights are the same tensors as before, since a fused optimizer depends on their memory layout.
    """
    kept = [(p, p.data) for p in network.parameters() if p.ndim == 4]
    for parameter, data in kept:
        parameter.data = data.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
