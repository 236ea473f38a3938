"""The README's commands name what exists, and its Python runs."""

import re
import shlex
from pathlib import Path

import click
import pytest

from hfgen import cli
from hfgen.commands.options import split_dotted

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


LINES = [line for block in blocks("sh") for line in block.splitlines()]
COMMANDS = [line.partition(" #")[0].strip() for line in LINES if line.startswith("hfgen")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    """Verbs, options and their values are what the command line knows."""
    verb, *words = shlex.split(line)[1:]
    command = cli.cli.commands[verb]
    context = cli.cli.make_context("hfgen", [verb, *words])
    assert isinstance(command, click.Command)
    with context:
        sub = command.make_context(verb, list(words), parent=context)
    assert sub.params
    assert set(split_dotted(words)[1]) <= {"generator", "discriminator", "scheduler", "objective"}


def test_commands_were_found():
    assert len(COMMANDS) > 6


def test_the_python_runs(tmp_path, monkeypatch):
    """On a tiny model under the README's name."""
    from hfgen.registry import get_family

    monkeypatch.chdir(tmp_path)
    tiny = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}
    get_family("dcgan").load().build(16, 1, **tiny).save_pretrained("runs/dcgan-mnist-mini")
    [block] = blocks("python")
    names = {}
    exec(block, names)
    assert len(names["images"]) == 16
    assert names["image"].size == (16, 16)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert all((ROOT / target).exists() for target in targets)


def test_the_test_command_is_what_ci_runs():
    assert "make test" in "\n".join(blocks("sh"))
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("card", sorted((ROOT / "model_cards").glob("*/README.md")), ids=lambda path: path.parent.name)
def test_a_card_in_the_project_is_whole(card):
    """It parses, its pictures are there, its recipe is the config of the run, its environment names no path."""
    import yaml
    from huggingface_hub import ModelCard

    from hfgen.recipes import list_recipes

    assert ModelCard.load(card).data.library_name == "hfgen"
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", card.read_text())
    assert len(pictures) == 2
    assert all((card.parent / picture).is_file() for picture in pictures)
    recipe = yaml.safe_load(list_recipes()[card.parent.name].read_text())
    assert recipe == yaml.safe_load((card.parent / "config.yaml").read_text())
    assert not re.search(r"(/home|/tmp|/root|/work)\b", card.read_text())
