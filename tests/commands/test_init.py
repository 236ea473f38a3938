"""`hfgen init`: a recipe to be edited."""

import json

import pytest
import yaml

from hfgen.commands.recipes import list_recipes, resolve_run
from hfgen.registry import get_family, list_families
from hfgen.settings.arguments import FIELDS, NOT_SAVED
from hfgen.settings.options import component_choices, signature_of
from hfgen.testing import make_data

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize("target", [*list_recipes(), *(family.name for family in list_families())])
@pytest.mark.whole
def test_what_is_written_is_the_same_run(hfgen, tmp_path, target):
    assert hfgen("init", target, "-o", "my.yaml")[:2] == (0, "my.yaml\n")
    written, original = resolve_run("my.yaml", None, {}, {})[0], resolve_run(target, None, {}, {})[0]
    assert written == original
    assert list(written.to_dict()) == list(original.to_dict())


def test_every_key_is_there_with_its_help(hfgen, tmp_path):
    hfgen("init", "vae-mnist")
    text = (tmp_path / "vae-mnist.yaml").read_text()
    assert text.startswith("# The one-layer VAE of Burda et al.")
    assert set(yaml.safe_load(text)) >= set(FIELDS) - set(NOT_SAVED)
    joined = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for name, field in FIELDS.items():
        if name not in NOT_SAVED:
            assert field.metadata["help"] in joined
    assert max(map(len, text.partition("model:")[2].splitlines())) <= 119
    assert "\n  latent_dim: 50\n" in text
    assert "class_name is one of ConvEncoder, MLPEncoder; if it is not set, the model chooses by the data." in joined


def test_options_that_are_not_set_are_shown_with_what_holds(hfgen, tmp_path):
    """Uncommented, they are the options that the model has."""
    hfgen("init", "dcgan")
    lines = (tmp_path / "dcgan.yaml").read_text().splitlines()
    blocks = lines[lines.index("# generator:") - 1 :]
    uncommented = [line.removeprefix("# ") for line in blocks if ":" in line]
    shown = yaml.safe_load("\n".join(uncommented))
    family = get_family("dcgan").load()
    for name, (component, *_) in component_choices(family).items():
        own = {k: p.default for k, p in signature_of(component).items() if k in shown[name]}
        assert own
        assert shown[name] == own
    assert shown["objective"] == {"loss": "non_saturating"}


def test_an_edited_recipe_trains(hfgen, tmp_path):
    make_data(tmp_path / "blobs.npz", 16, 1)
    hfgen("init", "dcgan-mnist", "-o", "my.yaml")
    text = (tmp_path / "my.yaml").read_text()
    text = text.replace("dataset_name: ylecun/mnist", "dataset_name: blobs.npz")
    text = text.replace("train_batch_size: 64", "train_batch_size: 4").replace(
        "max_train_steps: null", "max_train_steps: 1"
    )
    text = text.replace("# generator:\n", "generator:\n").replace("#   latent_dim: 100", "  latent_dim: 5")
    (tmp_path / "my.yaml").write_text(text)
    code, _, err = hfgen("train", "--config", "my.yaml", "--output_dir", "run", "--generator.base_channels", "4")
    assert code == 0, err
    assert json.loads((tmp_path / "run/generator/config.json").read_text())["latent_dim"] == 5


def test_nothing_is_overwritten(hfgen, tmp_path):
    (tmp_path / "dcgan.yaml").write_text("mine")
    code, out, err = hfgen("init", "dcgan")
    assert (code, out) == (2, "")
    assert "dcgan.yaml exists; nothing was written" in err
    assert (tmp_path / "dcgan.yaml").read_text() == "mine"
    assert hfgen("init", "dcgam")[0] == 2
    assert hfgen("init", "dcgan", "-o", "nowhere/x.yaml")[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dcgan.yaml"]
