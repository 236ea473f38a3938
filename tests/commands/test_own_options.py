"""Options of a model's own, on the command line: of its call, of a walk, of its scheduler; by a toy family."""

import json

import click
import numpy as np
import pytest
import torch
import yaml
from command_line import call, hfgen as run
from PIL import Image
from toy.drawn_family import DrawnPipeline

from hfgen.commands.options import split_own
from hfgen.registry import register_family


@pytest.fixture(scope="module", autouse=True)
def registered():
    from hfgen import registry

    register_family("drawn", DrawnPipeline)
    yield
    del registry._registered["drawn"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, registered):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "drawn"
    DrawnPipeline.build(4, 1).save_pretrained(folder)
    return folder


def pixels(model, place, *words):
    done = run("sample", model, "--seeds", "1,2", "-o", place / "a.npz", "--overwrite", *words)
    assert done.code == 0, done.err
    return np.load(place / "a.npz")["images"].astype(int)


def test_options_of_the_call_are_those_of_the_signature(model, tmp_path):
    plain = pixels(model, tmp_path)
    assert (pixels(model, tmp_path, "--shift", "1") - plain).mean() > 90
    assert (pixels(model, tmp_path, "--side=right") == plain[:, :, ::-1]).all()


def test_a_setting_of_the_scheduler_has_a_long_and_a_short_name(model, tmp_path):
    plain = pixels(model, tmp_path)
    calm = pixels(model, tmp_path, "--scheduler.temperature", "0.1")
    assert (pixels(model, tmp_path, "--temperature", "0.1") == calm).all()
    assert np.ptp(calm, 0).mean() < np.ptp(plain, 0).mean()


def frames(model, place, *words):
    done = run("sample", model, "--seeds", "1,2", "--num_frames", 4, "-o", place / "w.webp", "--overwrite", *words)
    assert done.code == 0, done.err
    with Image.open(place / "w.webp") as film:
        return np.asarray(film.convert("L")).astype(int)


def test_a_walk_hands_its_options_on(model, tmp_path):
    assert (frames(model, tmp_path, "--shift", "1") - frames(model, tmp_path)).mean() > 100


REFUSED = {
    "near": (["--shfit", "1"], "No such option: --shfit. Did you mean --shift?"),
    "the command's own": (["--overwite"], "Did you mean --overwrite?"),
    "of another family": (["--guidance_scale", "2"], "DrawnPipeline takes no such option. It takes --shift, --side."),
    "no number": (["--shift", "far"], "--shift is 'far'; expected a number."),
    "no choice": (["--side", "up"], "--side is 'up'; expected one of 'left', 'right'."),
    "no value": (["--shift"], "--shift needs a value."),
    "not of a walk": (["--side", "left", "-o", "w.webp"], "a latent walk of DrawnPipeline takes no such option."),
    "steps of a walk": (["--num_inference_steps", "3", "-o", "w.webp"], "It takes --shift."),
    "scheduler's": (["--scheduler.temprature", "2"], "unknown option 'temprature'. Did you mean 'temperature'"),
    "scheduler's type": (["--scheduler.temperature", "hot"], "temperature is 'hot'; expected a number"),
    "another component's": (["--generator.width", "2"], "No such option '--generator.width'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_taken_is_refused_before_weights_are_read(model, tmp_path, monkeypatch, name):
    """The model's weights are missing: an error of them would come first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "generator").mkdir(parents=True)
    (tmp_path / "empty" / "model_index.json").write_bytes((model / "model_index.json").read_bytes())
    words, said = REFUSED[name]
    code, out, err = run("sample", "empty", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) <= 6
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_mistyped_flag_that_took_the_target(model):
    done = run("sample", "--overwite", model)
    assert done.code == 2
    assert "No such option '--overwite'" in done.err
    assert "--overwrite" in done.err


def test_a_value_that_the_scheduler_refuses(model):
    done = run("sample", model, "--temperature", "-1")
    assert (done.code, done.err) == (2, "hfgen: --scheduler.temperature is -1.0; it must be at least 0.\n")


def test_info_lists_them_with_defaults_and_help(model):
    facts = yaml.safe_load(run("info", model).out)
    assert facts["sampling_options"] == {
        "--shift": "float = 0.0: what is added to each pixel.",
        "--side": "Literal['left', 'right'] = 'left'",
    }
    assert facts["walk_options"] == {"--shift": "float = 0.0"}
    assert facts["scheduler_options"]["--scheduler.latent_shape"] == "Sequence[int] = [3]"
    assert "likelihood_options" not in facts
    assert json.loads(run("info", "vae", "--json").out)["likelihood_options"] == {
        "--likelihood.num_importance_samples": "int = 100: K; 1 is an unbiased draw of the ELBO."
    }


def test_words_are_split():
    assert split_own(["x", "--a", "-1", "--b", "--seed", "2", "--c=1", "--d-e", "f"], {"--seed"}) == (
        ["x", "--seed", "2"],
        {"a": "-1", "b": None, "c": "1", "d_e": "f"},
    )
    with pytest.raises(click.MissingParameter):
        call("sample")
