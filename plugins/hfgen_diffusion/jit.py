"""JiT, "just image transformers" (Li & He 2025, arXiv:2511.13720): a plain transformer on patches of pixels.

It predicts the image, which a few channels can carry where noise and velocity, of as many dimensions as a patch has,
cannot. Called as diffusers' UNet2DModel is, with the same names for classes in its config.
"""

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from hfgen import UsageError

FREQUENCIES = 256  # of the time's embedding
LEAST_HEAD = 16  # channels of an attention head, below which attention computes slowly


class JiT(ModelMixin, ConfigMixin):
    """Patches through a bottleneck to tokens, transformer blocks, and a linear head back to patches.

    The output of an untrained network is zero: its head starts there, and so does what its blocks add to the tokens.

    Args:
        sample_size: side of the images.
        in_channels: of the images.
        out_channels: of the output; default `in_channels`.
        patch_size: side of a patch; it divides the images' side.
        hidden_size: width of a token.
        num_layers: transformer blocks.
        num_attention_heads: that share the width; a head has a multiple of 4 channels, at least 16.
        bottleneck_dim: dimensions that a patch is mapped to first.
        mlp_ratio: width inside a block's SwiGLU, times 3/2, in units of `hidden_size`.
        num_class_embeds: of a class-conditional model, the labels: one more than there are classes, the last one
            standing for none.
        in_context_len: tokens of the class that join the patches' halfway.

    Raises:
        UsageError: sizes that do not divide each other.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int = 1,
        out_channels: int | None = None,
        patch_size: int = 4,
        hidden_size: int = 128,
        num_layers: int = 6,
        num_attention_heads: int = 4,
        bottleneck_dim: int = 128,
        mlp_ratio: float = 4.0,
        num_class_embeds: int | None = None,
        in_context_len: int = 4,
    ) -> None:
        super().__init__()
        _check_sizes(sample_size, patch_size, hidden_size, num_attention_heads)
        out_channels = in_channels if out_channels is None else out_channels
        self.register_to_config(out_channels=out_channels)
        self.patches, self.patch_size = sample_size // patch_size, patch_size
        self.embed = nn.Sequential(
            nn.Linear(in_channels * patch_size**2, bottleneck_dim, bias=False), nn.Linear(bottleneck_dim, hidden_size)
        )
        self.time_embed = nn.Sequential(
            nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.class_embed = self.context_position = None
        if num_class_embeds is not None:
            self.class_embed = nn.Embedding(num_class_embeds, hidden_size)
            self.context_position = nn.Parameter(torch.zeros(in_context_len, hidden_size))
        self.blocks = nn.ModuleList(Block(hidden_size, num_attention_heads, mlp_ratio) for _ in range(num_layers))
        self.norm, self.modulation = nn.RMSNorm(hidden_size, eps=1e-6), nn.Linear(hidden_size, 2 * hidden_size)
        self.head = nn.Linear(hidden_size, out_channels * patch_size**2)
        self._initialize()

    def _initialize(self) -> None:
        """Xavier's uniform weights; the head and what modulates are zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name in ("time_embed.0.weight", "time_embed.2.weight", "class_embed.weight", "context_position"):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("modulation.weight") or name == "head.weight":
                nn.init.zeros_(parameter)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> Any:
        """The prediction for each image, (B, out_channels, H, W).

        Args:
            sample: noisy images, (B, C, H, W).
            timestep: of all images, or of each, (B,).
            class_labels: of a class-conditional network, (B,).
            return_dict: False for a tuple.
        """
        time = torch.as_tensor(timestep, device=sample.device).float().expand(len(sample))
        condition = self.time_embed(frequencies(time).to(sample.dtype))
        side, width = self.patches, self.config.hidden_size
        place = positions(side, sample.device)
        tokens = self.embed(patchify(sample, self.patch_size)) + sines(place, width).to(sample.dtype)
        context = None
        if self.class_embed is not None:
            if class_labels is None:
                raise ValueError("class_labels are missing; this network is class-conditional.")
            label = self.class_embed(class_labels)
            condition, context = condition + label, label[:, None] + self.context_position
        turn = rotation(place, width // self.config.num_attention_heads)
        condition, start = F.silu(condition), 0
        for number, block in enumerate(self.blocks):
            if context is not None and number == len(self.blocks) // 2:
                tokens, start = torch.cat([context, tokens], 1), context.shape[1]
                turn = (F.pad(turn[0], (0, 0, start, 0), value=1.0), F.pad(turn[1], (0, 0, start, 0)))  # left unturned
            tokens = block(tokens, condition, turn)
        scale, shift = self.modulation(condition)[:, None].chunk(2, -1)
        output = self.head(torch.addcmul(shift, self.norm(tokens[:, start:]), 1 + scale))
        images = unpatchify(output, self.patch_size, side)
        return UNet2DOutput(sample=images) if return_dict else (images,)


class Block(nn.Module):
    """x + g1 Attention(norm(x)), then x + g2 SwiGLU(norm(x)), with scale, shift and gate of each from the condition
    (adaLN-zero: Peebles & Xie 2023, arXiv:2212.09748, section 3.2)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        inner = round(width * mlp_ratio * 2 / 3)
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=1e-6) for _ in range(2))
        self.gate_up, self.down = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, tokens: Tensor, condition: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        seen = torch.addcmul(shift1, self.norm1(tokens), 1 + scale1)
        tokens = torch.addcmul(tokens, gate1, self._attend(seen, turn))
        gate, up = self.gate_up(torch.addcmul(shift2, self.norm2(tokens), 1 + scale2)).chunk(2, -1)
        return torch.addcmul(tokens, gate2, self.down(F.silu(gate) * up))

    def _attend(self, tokens: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        batch, count, width = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotated(self.norm_q(q), turn), rotated(self.norm_k(k), turn)
        found = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.out(found.transpose(1, 2).reshape(batch, count, width))


# --- patches --------------------------------------------------------------------------------------------------------


def patchify(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, H/p W/p, C p p), row by row."""
    return F.pixel_unshuffle(images, size).flatten(2).transpose(1, 2)


def unpatchify(patches: Tensor, size: int, side: int) -> Tensor:
    """The inverse, of `side` patches in a row."""
    return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (side, -1)), size)


# --- time and place, computed anew in each call, so that no table is saved ------------------------------------------


def frequencies(time: Tensor, count: int = FREQUENCIES) -> Tensor:
    """cos and sin of the time at falling frequencies, (B, count), float32 (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(-math.log(10000) / (count // 2) * torch.arange(count // 2, device=time.device))
    angles = time[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def positions(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each patch, (side²,) each."""
    line = torch.arange(side, device=device, dtype=torch.float32)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return rows.flatten(), columns.flatten()


def sines(place: tuple[Tensor, Tensor], width: int) -> Tensor:
    """The vectors that are added to tokens for their places, (side², width): half for the row, half for the column."""
    found = torch.cat([frequencies(line, width // 2) for line in place], 1)
    return F.pad(found, (0, width - found.shape[1]))


def rotation(place: tuple[Tensor, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """cos and sin of each token's angles, (side², width / 2): half of a head turns by the row, half by the column
    (RoPE: Su et al. 2021, arXiv:2104.09864; Heo et al. 2024, arXiv:2403.13298, section 3.1)."""
    quarter = width // 4
    rates = torch.exp(-math.log(10000) / quarter * torch.arange(quarter, device=place[0].device))
    angles = torch.cat([line[:, None] * rates for line in place], 1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of channels, (B, heads, N, width), by each token's angles."""
    first, second = x.chunk(2, -1)
    cos, sin = turn[0].to(x.dtype), turn[1].to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _check_sizes(sample_size: int, patch_size: int, hidden_size: int, heads: int) -> None:
    if patch_size < 1 or sample_size % patch_size:
        fitting = [size for size in range(1, sample_size + 1) if sample_size % size == 0][:8]
        raise UsageError(
            f"--unet.patch_size is {patch_size}, which does not divide {sample_size}x{sample_size} images.\n"
            f"Patches of {', '.join(map(str, fitting))} do; or change the side with --resolution."
        )
    width = hidden_size // max(1, heads)
    if heads < 1 or hidden_size % heads or width % 4 or width < LEAST_HEAD:
        raise UsageError(
            f"--unet.num_attention_heads is {heads} for a --unet.hidden_size of {hidden_size}: a head's width must be "
            f"a multiple of 4,\nand at least {LEAST_HEAD}."
        )
