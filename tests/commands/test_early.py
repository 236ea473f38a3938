"""Wrong words are refused before anything slow is imported, with the near word, and no Hub is asked."""

import json
import sys

import pytest
from PIL import Image

SLOW = ["torch", "diffusers", "transformers", "datasets", "accelerate"]
DATA = ["--dataset_name", "mnist-mini"]
REFUSED = {
    "a name that is nearly built in": (
        ["train", "dcgan", "--dataset_name", "mnist_mini"],
        "Did you mean 'mnist-mini'?",
    ),
    "the same in evaluate": (["evaluate", "./run", "--dataset_name", "MNIST-mini"], "Did you mean 'mnist-mini'?"),
    "a folder that is nearly there": (["train", "dcgan", "--dataset_name", "phots"], "Did you mean 'photos'?"),
    "the same with a path": (["train", "dcgan", "--dataset_name", "./phots"], "Did you mean 'photos'?"),
    "no file": (["train", "dcgan", "--train_data_dir", "/no/such/place"], "does not exist: no such file or folder."),
    "no split": (["train", "dcgan", *DATA, "--dataset_split", "tset"], "Did you mean 'test'?"),
    "no option": (["train", "dcgan", *DATA, "--lerning_rate", "1"], "'--learning_rate'"),
    "no value": (["train", "dcgan", *DATA, "--mixed_precision", "fp61"], "not one of"),
    "no option of a component": (
        ["train", "dcgan", *DATA, "--generator.base_chanels", "8"],
        "command line: generator: unknown option 'base_chanels'. Did you mean 'base_channels'?",
    ),
    "no option of diffusers' network": (
        ["train", "ddpm", *DATA, "--unet.layers_per_blok", "1"],
        "'layers_per_block'?",
    ),
    "no value of a component": (["train", "vae", *DATA, "--encoder.latent_dim", "x"], "expected a whole number"),
    "no component": (["train", "vae", *DATA, "--encodr.latent_dim", "3"], "Did you mean 'encoder'?"),
    "no option of an objective": (["train", "dcgan", *DATA, "--objective.nonsuch", "3"], "unknown option 'nonsuch'"),
    "out of range": (
        ["train", "dcgan", *DATA, "--learning_rate", "-1"],
        "--learning_rate is -1.0; it must be above 0",
    ),
    "no key of a config": (["train", "dcgan", *DATA, "--config", "wrong.yaml"], "Did you mean 'learning_rate'?"),
    "no license": (
        ["train", "dcgan", *DATA, "--license", "Apache 2.0"],
        "license 'Apache 2.0' is none that the Hub knows. Did you mean 'apache-2.0'?",
    ),
    "no model": (["train", "dcgna", *DATA], "Did you mean 'dcgan'?"),
    "nothing of that name": (["info", "nonsuch"], "no family, recipe, dataset or folder 'nonsuch'"),
    "nearly a family": (["info", "dcgna"], "Did you mean 'dcgan'?"),
    "no run to sample": (["sample", "phots"], "Did you mean 'photos'?"),
    "a strength of nothing": (["sample", "x/y", "--strength", "0.5"], "--strength has no effect without --init_image"),
    "a mask of nothing": (["sample", "x/y", "--mask_image", "m"], "--mask_image has no effect without --init_image"),
    "jumps without a mask": (
        ["sample", "x/y", "--init_image", "gray.png", "--jump_length", "2"],
        "--jump_length has no effect without --mask_image",
    ),
    "a strength of 0": (["sample", "x/y", "--init_image", "gray.png", "--strength", "0"], "not in the range 0<x<=1"),
    "a walk from a picture": (
        ["sample", "x/y", "--init_image", "gray.png", "-o", "walk.webp"],
        "--init_image has no effect on a latent walk",
    ),
    "no picture": (["sample", "x/y", "--init_image", "wrong.yaml"], "--init_image wrong.yaml cannot be read: it is"),
    "no file of a picture": (["sample", "x/y", "--init_image", "none.png"], "--init_image none.png: there is no such"),
    "a mask of another size": (
        ["sample", "x/y", "--init_image", "gray.png", "--mask_image", "wide.png"],
        "--mask_image wide.png is 5x4, and --init_image 4x4",
    ),
    "a mask of all": (
        ["sample", "x/y", "--init_image", "gray.png", "--mask_image", "white.png"],
        "white everywhere: nothing would stay",
    ),
    "a mask of nothing at all": (
        ["sample", "x/y", "--init_image", "gray.png", "--mask_image", "black.png"],
        "black everywhere: nothing would be drawn",
    ),
    "no run to push": (["push", "phots", "me/x"], "phots is not a folder"),
}
SCRIPT = f"""
import contextlib, io, json, sys
from hfgen.commands.main import main
found = {{}}
for name, words in json.load(sys.stdin).items():
    err, before = io.StringIO(), set(sys.modules)
    with contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code
    found[name] = code, err.getvalue(), sorted((set(sys.modules) - before) & set({SLOW}))
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """What each command line says, all in one process in which nothing was imported before."""
    import subprocess

    folder = tmp_path_factory.mktemp("here")
    (folder / "photos").mkdir()
    for name, size, value in (("gray", 4, 128), ("black", 4, 0), ("white", 4, 255), ("wide", 5, 0)):
        Image.new("L", (size, 4), value).save(folder / f"{name}.png")
    (folder / "wrong.yaml").write_text("lerning_rate: 1.0\n")
    asked = json.dumps({name: words for name, (words, _) in REFUSED.items()})
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=asked, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_word_costs_no_import(refused, name):
    code, err, imported = refused[name]
    assert code == 2
    assert REFUSED[name][1] in err
    assert not imported
