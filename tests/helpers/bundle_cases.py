"""Run in a process of its own, where neither hfgen nor a family can be imported: loads each case of stdin, `[label,
target, call]`, by plain diffusers, first without consent, and prints what it draws as JSON."""

import importlib.abc
import json
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PACKAGES = ("hfgen", "toy")


class Absent(importlib.abc.MetaPathFinder):
    """Stands before all other finders: what begins so is not installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name.startswith(PACKAGES):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())


def main() -> None:
    import torch
    from diffusers import DiffusionPipeline

    loaded, facts = {}, {}
    for label, target, call in json.load(sys.stdin):
        try:
            DiffusionPipeline.from_pretrained(target)
        except (ValueError, OSError) as error:
            facts[label] = {"refused": f"{type(error).__name__}: {error}"}
        loaded[label] = DiffusionPipeline.from_pretrained(target, trust_remote_code=True), call
    for label, (pipeline, call) in loaded.items():  # after all of them, whose files lie in one folder
        facts[label] |= drawn(pipeline, call)
    images = torch.linspace(0, 255, 2 * 64).round().div(127.5).sub(1).view(2, 1, 8, 8)
    for label in ("vae", "glow"):
        pipeline, call = loaded[label]
        labels = torch.tensor(call["class_labels"])
        facts[label]["nats"] = pipeline.log_likelihood(images, labels).nats.tolist()
        facts[label]["reconstructed"] = pipeline.reconstruct(images, labels).tolist()
    facts["wrong"] = wrong(loaded["dcgan"][0])
    facts["imported"] = [name for name in sys.modules if name.startswith(PACKAGES)]
    print(json.dumps(facts))


def drawn(pipeline: Any, call: dict[str, Any]) -> dict[str, Any]:
    import torch

    images = pipeline(seeds=[0, 1], output_type="np", **call).images.tolist()
    by_generator = pipeline(batch_size=2, generator=torch.Generator().manual_seed(3), output_type="np", **call).images
    return {"class": type(pipeline).__name__, "images": images, "by_generator": by_generator.tolist()}


def wrong(pipeline: Any) -> str:
    """What a call says that cannot be."""
    try:
        pipeline(seeds=[0], num_inference_steps=7)
    except ValueError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
