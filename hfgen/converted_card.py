"""The card of a model that was converted: what it is, what it was made from, and that the rest is not known."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

from hfgen import __version__
from hfgen.card import python_snippet
from hfgen.card_results import TASK
from hfgen.registry import family_of
from hfgen.run import component_rows
from hfgen.untouched_card import marked

if TYPE_CHECKING:
    from hfgen.converting import Converter
    from hfgen.foreign_files import ForeignFiles
    from hfgen.pipeline import HFGenPipeline

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
On what it was trained, how, and under which licence is not recorded here: ask those who published it. No quality
metric was measured; `hfgen evaluate` measures them.

## References
{% for reference in references %}
- {{ reference }}
{%- endfor %}
"""


def card(
    name: str, source: "ForeignFiles", converter: "type[Converter]", pipeline: "HFGenPipeline", notes: Sequence[str]
) -> str:
    """README.md of a converted model."""
    family = family_of(type(pipeline))
    arxiv = [r.rpartition("arXiv:")[2] for r in pipeline.references if "arXiv:" in r]
    tags = ["hfgen", *([family.name] if family else []), "image-generation", *(f"arxiv:{number}" for number in arxiv)]
    data = ModelCardData(library_name="hfgen", pipeline_tag=TASK, tags=tags)
    introduction = (
        f"{pipeline.description}. Converted by hfgen {__version__} from `{source.name}` ({converter.description}): "
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
            components=component_rows(pipeline),
            notes=notes,
            files=sorted(source.sha256.items()),
            references=pipeline.references,
        )
    )
    return marked(text)
