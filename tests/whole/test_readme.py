"""The README's commands name what exists, and its Python runs."""

import re
import shlex
from pathlib import Path

import click
import pytest
import torch

from hfgen.commands import main
from hfgen.commands.options import split_dotted
from hfgen.noise import StepNoise
from hfgen.registry import get_family
from hfgen.settings.options import without_class_name
from hfgen.settings.resolve import check_options

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


LINES = [line for block in blocks("sh") for line in block.splitlines()]
COMMANDS = [line.partition(" #")[0].strip() for line in LINES if line.startswith("hfgen")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    """Verbs, options and their values are what the command line knows."""
    verb, *words = shlex.split(line)[1:]
    command = main.cli.commands[verb]
    context = main.cli.make_context("hfgen", [verb, *words])
    assert isinstance(command, click.Command)
    with context:
        sub = command.make_context(verb, list(words), parent=context)
    assert sub.params
    for name, options in split_dotted(words)[1].items():
        family = get_family(words[0]).load()
        known = {"objective": family.objective_class, **family.component_classes({name: options})}
        check_options(known[name], without_class_name(options), "README")


def test_commands_were_found():
    assert len(COMMANDS) > 6


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    """On tiny models under the README's names."""
    monkeypatch.chdir(tmp_path)
    tiny = {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4}
    get_family("dcgan").load().build(16, 1, **tiny).save_pretrained("runs/dcgan-mnist-mini")
    tiny = {"encoder.base_channels": 4, "decoder.base_channels": 4}
    get_family("vae").load().build(28, 1, **tiny).save_pretrained("runs/vae-mnist-mini")
    glow = get_family("glow").load().build(28, 1, **{"flow.num_steps": 1, "flow.hidden_channels": 4})
    batch = {"pixel_values": torch.rand(4, 1, 28, 28) * 2 - 1}
    glow.objective_class.initialize(glow, batch, StepNoise(0, 0, slice(0, 4), 4))
    glow.save_pretrained("runs/glow-mnist-mini")
    ddpm = {"unet.block_out_channels": [8, 8, 8], "unet.norm_num_groups": 2}
    get_family("ddpm").load().build(28, 1, **ddpm).save_pretrained("runs/ddpm-mnist-mini")
    drawing, _, measuring, inverting, denoising = blocks("python")  # test_readme_walk.py runs the second
    names = {}
    exec(drawing, names)
    assert len(names["images"]) == 16
    assert names["image"].size == (16, 16)
    exec(measuring, names)
    assert "bits per dimension of 2 values (lower bound, 500 importance samples; mean of 8)" in capsys.readouterr().out
    assert names["reconstructions"].shape == names["images"].shape
    exec(inverting, names)
    assert names["latents"].shape == (8, 784)
    assert "of 256 values (lower bound, 8 importance samples; mean of 8)" in capsys.readouterr().out
    assert (names["between"].abs() <= 1).all()
    exec(denoising, names)
    assert names["again"].shape == names["noise"].shape == (4, 1, 28, 28)
    assert "(lower bound, variational bound, 21 of 1,000 levels" in (out := capsys.readouterr().out)
    assert "(estimate, probability-flow ODE, 10 Runge-Kutta steps" in out
    assert len(names["fast"]) == 3


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

    from hfgen.commands.recipes import list_recipes

    assert ModelCard.load(card).data.library_name == "hfgen"
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", card.read_text())
    assert len(pictures) >= 2
    assert all((card.parent / picture).is_file() for picture in pictures)
    recipe = yaml.safe_load(list_recipes()[card.parent.name].read_text())
    config = yaml.safe_load((card.parent / "config.yaml").read_text())
    for settings in (recipe, config):
        settings["dataset_name"] = settings["dataset_name"].rpartition("/")[2]  # of the Hub's, or a copy of it
    assert all(contains(config[name], value) for name, value in recipe.items())
    assert not re.search(r"(/home|/tmp|/root|/work)\b", card.read_text())


def contains(config, recipe):
    """Whether a config says what a recipe says, which may leave defaults out."""
    if isinstance(recipe, dict):
        return all(contains(config.get(name), value) for name, value in recipe.items())
    return config == recipe
