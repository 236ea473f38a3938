"""Text that several kinds of cards share."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def python_snippet(name: str, options: Mapping[str, Any], conditional: bool) -> str:
    """Python that loads the model of this name and samples from it."""
    arguments = ["seeds=range(16)", *(["class_labels=[0] * 16"] if conditional else [])]
    arguments += [f"{option}={value!r}" for option, value in options.items()]
    return (
        "from hfgen import HFGenPipeline\n\n"
        f"pipeline = HFGenPipeline.from_pretrained({json.dumps(name)})\n"
        f"images = pipeline({', '.join(arguments)}).images"
    )


def sample_command(name: str, options: Mapping[str, Any]) -> list[str]:
    """The words of the command that samples a grid."""
    words = ["hfgen", "sample", name, "--seed", "0", "--num_images", "16"]
    words += [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return [*words, "--output", "grid.png"]


def how_to_load(name: str) -> str:
    """A section on loading by plain diffusers, for the card of a model that is bundled with its code."""
    return (
        "\n\nWithout hfgen, plain diffusers loads it by the code that lies beside its weights, and draws the same "
        "images:\n\n```python\nfrom diffusers import DiffusionPipeline\n\n"
        f"pipeline = DiffusionPipeline.from_pretrained({json.dumps(name)}, trust_remote_code=True)\n"
        "images = pipeline(seeds=range(16)).images\n```\n\n"
        "`trust_remote_code=True` runs the code of this repository on your machine: read it before, and pin a "
        "`revision`.\nWith hfgen it is not needed: hfgen loads the same files and runs none of that code."
    )


def component_rows(pipeline: "DiffusionPipeline") -> list[dict[str, Any]]:
    """Name, class and number of parameters of each network."""
    return [
        {
            "name": name,
            "class_name": type(model).__name__,
            "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        }
        for name, model in pipeline.models().items()
    ]
