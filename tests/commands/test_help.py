"""What a person reads first: whole sentences, options in groups, those of a model where one is named."""

import re
from pathlib import Path

import click
from command_line import hfgen

from hfgen.commands.main import cli
from hfgen.commands.train import GROUPS

MODEL = Path(__file__).parents[2] / "model_cards" / "ddpm-mnist"


def test_no_sentence_of_the_verbs_is_cut():
    out = hfgen("--help").out
    assert "..." not in out.partition("Commands:")[2].replace("metrics ...", "")
    assert all(command.short_help for command in cli.commands.values())


def test_options_of_a_training_are_in_groups():
    out = hfgen("train", "--help").out
    titles = re.findall(r"^([A-Z][\w, ]*):$", out, re.MULTILINE)
    assert titles == ["Command", *GROUPS.values()]
    command = cli.commands["train"]
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    assert all(p.opts[0] in out for p in shown)


def test_the_options_of_a_model_are_those_of_its_own():
    out = hfgen("sample", MODEL, "--help").out
    own = out.partition(f"Options of {MODEL}:")[2]
    assert "--guidance_scale" in own
    assert "--scheduler.num_train_timesteps" in own
    assert "--guidance_scale" not in hfgen("sample", "--help").out.partition("Options:")[2]


def test_data_without_their_option_are_told():
    code, _, err = hfgen("train", "dcgan", "mnist-mini")
    assert code == 2
    assert "The data are named by an option: --dataset_name" in err


def test_recipes_say_what_they_are():
    out = hfgen("list", "recipes").out
    assert "A small Glow (Kingma & Dhariwal 2018) of 28x28 digits for a CPU" in out
    assert all(len(line.split(maxsplit=2)) == 3 for line in out.splitlines())


def test_variants_that_are_there_are_told(tmp_path):
    from hfgen.commands.info import _place

    snapshot = tmp_path / ("0" * 40)
    (snapshot / "unet").mkdir(parents=True)
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        (snapshot / "unet" / name).touch()
    assert _place(snapshot) == {"commit": "0" * 40, "variants": ["fp16"]}
    assert _place(MODEL) == {}
