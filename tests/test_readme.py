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
