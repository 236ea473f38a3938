"""The reference models: each card is true, and each model works right after a clone, offline."""

import json
import re
from pathlib import Path

import pytest

from hfgen.commands.main import cli
from hfgen.results.words import shown

CARDS = Path(__file__).parents[2] / "model_cards"
MODELS = sorted(path.parent for path in CARDS.glob("*/README.md"))
LIMIT = 8e6  # bytes of weights


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_card_is_true(model, capsys):
    """But for the snippets, of which one model's stand for all: they are one text, and tested below."""
    snippets = "--snippets" if model.name == "vae-mnist" else "--no_snippets"
    cli.main(["card", str(model), "--check", "--num_redrawn", "4", snippets], standalone_mode=False)
    assert capsys.readouterr().out.count("ok: ") == (4 if model.name == "vae-mnist" else 3)


@pytest.mark.slow  # of the diffusion model it draws 32 images in 50 steps
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_snippets_run(model, capsys):
    cli.main(["card", str(model), "--check"], standalone_mode=False)
    assert capsys.readouterr().out.count("ok: ") == 4


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_what_is_committed_is_what_would_be_pushed(model):
    assert 0 < sum(path.stat().st_size for path in model.rglob("*.safetensors")) <= LIMIT
    assert list((model / "evaluation").glob("mnist-v1-*.json"))
    assert (model / "metrics.jsonl").is_file()
    assert not [
        path for path in model.rglob("*") if path.is_symlink() or path.suffix in (".bin", ".pt", ".pkl", ".py")
    ]
    assert not (model / "checkpoints").exists()


TABLE = (CARDS.parent / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_table_of_models_says_what_was_measured(model):
    """Each number of the model's row is in its evaluation, to the last digit that is shown."""
    row = re.search(rf"^\| \[`{model.name}`\].*$", TABLE, re.MULTILINE)
    (path,) = (model / "evaluation").glob("mnist-v1-*.json")
    values = {shown(value) for value in json.loads(path.read_text())["values"].values()}
    cells = [
        re.sub(r"^[<>]= |^reconstruction FID | bits$| nats, binary$", "", c.strip()) for c in row[0].split("|")[3:-1]
    ]
    assert len(cells) == 9
    assert all(cell in values for cell in cells if cell), [cell for cell in cells if cell not in values]
