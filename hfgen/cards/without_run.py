"""Cards of models without a run: a converted one, and one whose history is not recorded."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import ModelCard, ModelCardData

from hfgen import __version__
from hfgen.cards.parts import MARKED, addressed, component_rows, how_to_load, is_marked, marked, python_snippet
from hfgen.cards.results_section import TASK
from hfgen.files import write_text
from hfgen.registry import family_of
from hfgen.repository.index import class_name_of, read_index

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

WIDTH = 119
TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ introduction }}

## Use

`pip install {{ packages }}`, then

```python
{{ python }}
```

`{{ title }}` stands for the path of this folder, or the id of its repository.

## What it is

| component | class | parameters |
|---|---|---|
{% for row in components -%}
| {{ row.name }} | `{{ row.class_name }}` | {{ row.parameters }} |
{% endfor %}
{%- for note in notes %}
- {{ note }}
{%- endfor %}

## What it was made from

| file | SHA-256 |
|---|---|
{% for name, sha256 in files -%}
| {{ name }} | `{{ sha256 }}` |
{% endfor %}
On what it was trained, how, and under which license is not recorded here: ask those who published it. No quality
metric was measured; `hfgen evaluate` measures them.

## References
{% for reference in references %}
- {{ reference }}
{%- endfor %}
"""


def converted_card(
    name: str,
    pipeline: "DiffusionPipeline",
    source: str,
    format_description: str,
    sha256: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """README.md of a converted model.

    Args:
        source: name of the file or folder that it was converted from.
        format_description: what wrote that.
        sha256: name of each file that was read -> its hash.
        notes: sentences on what was assumed.
    """
    family = family_of(type(pipeline))
    arxiv = [r.rpartition("arXiv:")[2] for r in pipeline.references if "arXiv:" in r]
    tags = ["hfgen", *([family.name] if family else []), "image-generation", *(f"arxiv:{number}" for number in arxiv)]
    data = ModelCardData(library_name="hfgen", pipeline_tag=TASK, tags=tags)
    introduction = (
        f"{pipeline.description}. Converted by hfgen {__version__} from `{source}` ({format_description}): "
        "the same tensors, as safetensors, under hfgen's names."
    )
    text = str(
        ModelCard.from_template(
            data,
            template_str=TEMPLATE,
            title=name,
            introduction=textwrap.fill(introduction, WIDTH, break_long_words=False, break_on_hyphens=False),
            packages=" ".join(dict.fromkeys(["hfgen", family.distribution if family else "hfgen"])),
            python=python_snippet(name, {}, bool(pipeline.num_classes)),
            components=component_rows(pipeline.models()),
            notes=notes,
            files=sorted(sha256.items()),
            references=pipeline.references,
        )
    )
    return marked(text)


PLACE = "\n\n## What it is\n"  # the section on the bundled code stands before it, as on the card of a run


def with_code(card: str, bundled: bool) -> str | None:
    """The card with how to load the code that is beside the weights, or without that; None if it was edited.

    >>> with_code("# gan, by me", True) is None
    True
    """
    found = MARKED.fullmatch(card)
    title = re.search(r"^# (.+)$", card, re.MULTILINE)
    if found is None or title is None or not is_marked(card):
        return None
    text, section = found[1], how_to_load(title[1])
    before, place, after = text.replace(section + PLACE, PLACE, 1).partition(PLACE)
    return marked(before + (section if bundled else "") + place + after) if place else None


def with_address(card: str, repo_id: str) -> str:
    """The card with a repository's id in its snippets, and in its title too if nobody edited it."""
    title = re.search(r"^# (.+)$", card, re.MULTILINE)
    if title is None:
        return card
    found = MARKED.fullmatch(card)
    if found is None or not is_marked(card):
        return addressed(card, title[1], repo_id)
    text = addressed(found[1], title[1], repo_id)
    return marked(text.replace(title[0], f"# {repo_id}", 1))


def told_of_code(path: Path, bundled: bool) -> str | None:
    """Apply `with_code` to a file; None too where the path is a link, not a file, or not text."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return with_code(path.read_text(encoding="utf-8"), bundled)
    except ValueError:
        return None


def tell_of_code(path: Path, bundled: bool) -> None:
    """Bring a card up to date with the code beside it; one that somebody has edited stays as it is."""
    text = told_of_code(path, bundled)
    if text is not None:
        write_text(path, text)


def makeshift_card(folder: Path, name: str, bundled: bool = False) -> str:
    """A short card for a model whose training is not recorded."""
    index = read_index(folder)
    class_name = class_name_of(index)
    tags = ["hfgen", *filter(None, [index.get("_hfgen", {}).get("family")]), "image-generation"]
    data = yaml.safe_dump({"library_name": "hfgen", "pipeline_tag": TASK, "tags": tags}, sort_keys=False)
    return (
        f"---\n{data}---\n\n# {name.rpartition('/')[2]}\n\nA `{class_name}`, saved with hfgen. How it was made is not "
        f"recorded here.\n\n```python\n{python_snippet(name, {}, conditional=False)}\n```"
        f"{how_to_load(name) if bundled else ''}\n"
    )
