"""Files of texts, blocks of cards, and texts that were sampled again."""

import pytest
import torch

from hfgen_text.modality import TextModality
from hfgen_text.output import TextPipelineOutput
from hfgen_text.text_samples import card_block, different, fenced, read_texts, rounding_explains, write_texts

TEXTS = ["one\r\ntwo", "```\n# title\n<script>alert(1)</script>", "", "naïve\u2028三"]
SEEDS = [3, 1, 4, 15]


def test_output_is_one_of_diffusers():
    output = TextPipelineOutput(TEXTS, torch.zeros(4, 2))
    assert output[0] is output.texts is output["texts"]
    assert TextPipelineOutput(None, torch.zeros(4, 2))["sequences"].shape == (4, 2)


def test_lines_of_json_come_back(tmp_path):
    write_texts(TEXTS, SEEDS, tmp_path / "below" / "x.jsonl", "lines")
    assert read_texts(tmp_path / "below" / "x.jsonl") == [*zip(SEEDS, TEXTS, strict=True)]
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["x.jsonl"]


def test_a_text_file_holds_all(tmp_path):
    write_texts(TEXTS[:2], SEEDS[:2], tmp_path / "x.txt", "texts")
    expected = f"==== seed 3 ====\n{TEXTS[0]}\n\n==== seed 1 ====\n{TEXTS[1]}\n"
    assert (tmp_path / "x.txt").read_bytes().decode() == expected


def test_files_of_the_modality(tmp_path):
    """As `hfgen sample` writes them, in batches."""
    text, batches = TextModality(), [(SEEDS[:3], TEXTS[:3]), (SEEDS[3:], TEXTS[3:])]
    for name in ("x.txt", "x.jsonl"):
        assert text.write_items(iter(batches), text.kind_of(name), tmp_path / name, SEEDS, None) == 4
    assert read_texts(tmp_path / "x.jsonl") == [*zip(SEEDS, TEXTS, strict=True)]
    text.save_item(TEXTS[0], tmp_path / "seed_000003.txt")
    assert (tmp_path / "seed_000003.txt").read_bytes().decode() == TEXTS[0]
    assert text.kind_of("x.png") is None


@pytest.mark.parametrize("line", ['{"seed": 1}', "[]", '{"seed": "1", "text": ""}'])
def test_other_lines_are_refused(line, tmp_path):
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(ValueError, match="not a seed and its text"):
        read_texts(tmp_path / "x.jsonl")


@pytest.mark.parametrize("text", [*TEXTS, "`" * 9, "a\n````\n~~~\n<!--", "\x1b[2J\x00", "x\r```\ry", "\n```"])
def test_nothing_breaks_out_of_a_block(text):
    """CommonMark closes a block at a line of at least as many backticks as opened it."""
    first, *inside, last = fenced(text).split("\n")
    fence = first.removesuffix("text")
    assert last == fence == "`" * len(fence)
    assert len(fence) >= 3
    assert not any(fence in line for line in inside)
    assert all(c.isprintable() or c == "\t" for line in inside for c in line)
    assert not any(len(line.splitlines()) > 1 for line in inside)


def test_a_card_shows_some():
    block = card_block([*zip(SEEDS * 2, TEXTS * 2, strict=True)])
    assert block.startswith("Seed 3:\n\n```text\none\ntwo\n```\n\nSeed 1:\n\n````text\n```")
    assert block.count("Seed ") == 4


def test_texts_that_were_sampled_again():
    kept = [*zip(SEEDS, TEXTS, strict=True)]
    assert different(kept, kept[::-1]) == []
    assert different(kept, [*kept[1:], (3, "other")]) == [3]
    assert different(kept, kept[:3]) == [15]
    assert [rounding_explains(n, 16) for n in (0, 1, 2, 3)] == [True, True, True, False]
    assert rounding_explains(0, 4)
    assert not rounding_explains(1, 4)
