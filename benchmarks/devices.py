"""Where training is compared: on the CPU, or with `--device cuda` on an accelerator, where the data are resident too.

Blocks end when the device has done all that it was given (`interleave.synchronize`).
"""

import argparse
from typing import Any

import torch

from hfgen.settings.arguments import FIELDS


def device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, or an accelerator such as cuda.")


def device_of(given: argparse.Namespace) -> torch.device:
    """The one asked for; the Trainer takes an accelerator wherever there is one, so the others must run there too."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if found is None or found.type != torch.device(given.device).type:
        raise SystemExit(
            f"--device {given.device}, but training would run on {found}.\n"
            "To compare on the CPU hide the accelerator, for example CUDA_VISIBLE_DEVICES= ."
        )
    return found


def result_name(name: str, device: torch.device) -> str:
    """`dcgan_speed`, `dcgan_speed_cuda`."""
    return name if device.type == "cpu" else f"{name}_{device.type}"


def compiled(device: torch.device) -> dict[str, dict[str, Any]]:
    """A row more where compiling is quick enough to pay: hfgen in bf16 with compiled networks."""
    if device.type == "cpu" or "torch_compile" not in FIELDS:
        return {}
    return {"hfgen bf16, compiled": {"mixed_precision": "bf16", "torch_compile": True}}
