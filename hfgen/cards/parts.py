"""Text that several kinds of cards share."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfgen.registry import family_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


MARK = "\n<!-- Written by hfgen; SHA-256 of the text above: {} -->\n"
MARKED = re.compile(r"(.*)\n<!-- Written by hfgen; SHA-256 of the text above: [0-9a-f]{64} -->\n", re.DOTALL)


def marked(text: str) -> str:
    """A card with the digest of its text at the end, where a reader does not see it."""
    return text + MARK.format(hashlib.sha256(text.encode()).hexdigest())


def unmarked(card: str) -> str:
    """The card without the digest at its end.

    >>> unmarked(marked("# gan")), unmarked("# gan")
    ('# gan', '# gan')
    """
    found = MARKED.fullmatch(card)
    return found[1] if found else card


def is_marked(card: str) -> bool:
    """Return True if a card has its digest, and nobody edited it since.

    >>> is_marked(marked("# gan")), is_marked(marked("# gan") + "by me"), is_marked(marked("# gan").replace("g", "c"))
    (True, False, False)
    """
    return marked(unmarked(card)) == card


def python_snippet(name: str, options: Mapping[str, Any], conditional: bool, several: str = "images") -> str:
    """Python that loads the model of this name and samples from it."""
    arguments = ["seeds=range(16)", *(["class_labels=[0] * 16"] if conditional else [])]
    arguments += [f"{option}={value!r}" for option, value in options.items()]
    return (
        "from hfgen import HFGenPipeline\n\n"
        f"pipeline = HFGenPipeline.from_pretrained({json.dumps(name)})\n"
        f"{several} = pipeline({', '.join(arguments)}).{several}"
    )


def sample_command(name: str, options: Mapping[str, Any], output: str = "grid.png") -> list[str]:
    """The words of the command that samples a grid, or what the modality has."""
    words = ["hfgen", "sample", name, "--seed", "0", "--num_images", "16"]
    words += [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return [*words, "--output", output]


def addressed(text: str, name: str, repo_id: str) -> str:
    """A card whose snippets and commands name a repository instead of `name`; other words stay.

    >>> addressed('load_it.from_pretrained("gan", x)', "gan", "me/gan")
    'load_it.from_pretrained("me/gan", x)'
    >>> addressed("`hfgen sample gan --seed 0`, a gan; `gan` stands for the\npath", "gan", "me/gan")
    '`hfgen sample me/gan --seed 0`, a gan; `me/gan` stands for the\npath'
    """
    before = r"""(from_pretrained\(["']|hfgen sample ["']?|`(?=[^`\n]+` stands for the\s+path))"""
    return re.sub(before + re.escape(name) + r"""(?=["'`\s])""", lambda found: found[1] + repo_id, text)


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


def component_notes(pipeline: "DiffusionPipeline") -> list[str]:
    """Sentences on components that are pipelines, and on those that were frozen or began from saved weights."""
    from hfgen.components import all_pipelines, declared  # here, because a card is rendered without torch

    families = {name: (family_of(type(inner)), inner) for name, inner in all_pipelines(pipeline).items() if name}
    notes = [
        f"`{name}` is a pipeline of the family `{family.name}`."
        if family is not None
        else f"`{name}` is a `{type(inner).__name__}`."
        for name, (family, inner) in families.items()
    ]
    only_training = declared(pipeline, "training_only_components")
    for row in component_rows({name: pipeline.models()[name] for name in only_training}):
        what = (
            "Training used a `{class_name}` of {parameters} parameters too, `{name}`, which is not part of this model."
        )
        notes.append(what.format(**row))
    frozen = set(declared(pipeline, "frozen_components"))
    for name, source in pipeline.sources.items():
        below = {model for model in pipeline.models() if model == name or model.startswith(f"{name}.")}
        how = "was not trained: it is that of" if below <= frozen else "was trained from the weights of"
        notes.append(f"`{name}` {how} `{source.public_name}`.")
    return notes


def component_rows(networks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, class and number of parameters of each network."""
    return [
        {
            "name": name,
            "class_name": type(model).__name__,
            "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        }
        for name, model in networks.items()
    ]
