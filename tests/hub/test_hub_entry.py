"""docs/hub/hfgen.ts, what the Hub's pages need to know, says what the cards say."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hfgen.cards.parts import python_snippet
from hfgen.repository.index import MODEL_INDEX

ROOT = Path(__file__).parents[2]
ENTRY = (ROOT / "docs" / "hub" / "hfgen.ts").read_text(encoding="utf-8")
CARDS = sorted((ROOT / "model_cards").glob("*/README.md"))
NAME = "${model.id}"


def test_the_snippet_is_that_of_the_cards():
    (snippet,) = re.findall(r"string\[\] => \[\s+`(.*?)`,\s+\];", ENTRY, flags=re.DOTALL)
    assert snippet == python_snippet(NAME, {}, conditional=False)
    plain = [card.read_text() for card in CARDS if snippet.replace(NAME, card.parent.name) in card.read_text()]
    assert len(plain) == len(CARDS) - 1  # the diffusion model's tells its number of steps, too


def test_downloads_are_counted_by_the_index():
    assert re.findall(r'countDownloads: `path:"(.*)"`', ENTRY) == [MODEL_INDEX]
    assert all((card.parent / MODEL_INDEX).is_file() for card in CARDS)


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.parent.name)
def test_the_key_and_the_task_are_those_of_the_cards(card):
    data = ModelCard.load(card).data
    assert re.findall(r"^\t(\w+): \{$", ENTRY, flags=re.MULTILINE) == [data.library_name]
    assert re.findall(r'tasks = \{ "(.*?)": \["diffusers", "hfgen"\]', ENTRY) == [data.pipeline_tag]
