"""Half precision stays inside the coupling networks: everything else of a flow is in float32, or float64."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import nn

HALF = (torch.float16, torch.bfloat16)


class CouplingNetwork(nn.Module):
    """A network that may be in half precision: (B, in_channels, H, W) -> (B, out_channels, H, W)."""


class FlowModel(ModelMixin, ConfigMixin):
    """A model that keeps all but its coupling networks out of half precision, however that is requested."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """Load as `ModelMixin.from_pretrained`; only coupling networks take a half-precision dtype."""
        name = "dtype" if "dtype" in kwargs else "torch_dtype"
        dtype = kwargs.get(name)
        if dtype not in HALF:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, **{**kwargs, name: torch.float32})
        if isinstance(loaded, tuple):  # with output_loading_info
            loaded[0].to(dtype)
            return loaded  # type: ignore[return-value]
        return loaded.to(dtype)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move as `torch.nn.Module.to`; only coupling networks take a half-precision dtype."""
        dtype = kwargs.get("dtype", next((value for value in args if isinstance(value, torch.dtype)), None))
        if dtype not in HALF:
            return super().to(*args, **kwargs)
        for part in self.modules():
            if isinstance(part, CouplingNetwork):
                part.to(dtype)
        rest = [value for value in args if not isinstance(value, torch.dtype)]
        options = {name: value for name, value in kwargs.items() if name != "dtype"}
        return super().to(*rest, **options) if rest or options else self

    def half(self) -> Self:
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        return self.to(torch.bfloat16)

    @property
    def computing_dtype(self) -> torch.dtype:
        """float64 of a model in float64, else float32, whatever its coupling networks are in."""
        return next((p.dtype for p in self.parameters() if p.dtype not in HALF), torch.float32)


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep convolutions and matrix products from half precision, and on CUDA from TF32, for a while."""
    with torch.autocast(device.type, enabled=False), without_tf32() if device.type == "cuda" else _NOTHING:
        yield


_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Keep CUDA from rounding the inputs of float32 convolutions to 10 bits, its default, for a while."""
    cudnn: Any = torch.backends.cudnn  # torch's types do not have its switches
    switches = (cudnn.conv, torch.backends.cuda.matmul)
    kept = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, kept, strict=True):
            switch.fp32_precision = precision


@contextlib.contextmanager
def without_half(models: Iterable[nn.Module]) -> Iterator[None]:
    """Turn weights in half precision into float32 for a while."""
    kept = [(p, p.data) for model in models for p in model.parameters() if p.dtype in HALF]
    try:
        for parameter, data in kept:
            parameter.data = data.float()
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
