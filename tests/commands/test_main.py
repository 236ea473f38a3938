"""The command line as a person meets it: what it prints, and what it says of bad input."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hfgen.run_folder import read_metrics
from hfgen.testing import make_data

TINY = ["--generator.base_channels", "4", "--generator.latent-dim=6", "--discriminator.base_channels", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "blobs.npz", 16, 1, num_classes=3)


@pytest.fixture(scope="module")
def trained(hfgen, data, tmp_path_factory):
    """A run folder of a conditional model, made by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "dcgan", "--dataset-name", data, "--output_dir", folder, *TINY, "--max_steps", "2"]
    done = hfgen(*words, "--batch_size", "8", "--class_conditional", "--num_validation_images", 9)
    assert done.code == 0, done.err
    return folder


# --- what works -----------------------------------------------------------------------------------------------------


def test_help_names_every_verb(hfgen):
    code, out, _ = hfgen("--help")
    assert code == 0
    assert all(verb in out for verb in ("train", "sample", "list", "info", "plugins"))


def test_list_and_glob_and_json(hfgen):
    assert "\ndcgan  " in hfgen("list")[1]
    assert hfgen("list", "models", "zz*") == (0, "", "")
    assert {row["name"] for row in json.loads(hfgen("list", "datasets", "--json")[1])} == {
        "mnist-mini",
        "shakespeare-mini",
    }
    assert "dcgan-mnist" in hfgen("list", "recipes")[1]
    assert "dcgan" in hfgen("list", "plugins")[1]


def test_plugins_check(hfgen):
    code, out, _ = hfgen("plugins", "--check")
    assert code == 0
    assert re.search(r"dcgan\s+DCGANPipeline\s+family\s+hfgen \S+\s+ok", out)


def test_info_of_each_kind_of_target(hfgen, trained, data):
    family = json.loads(hfgen("info", "dcgan", "--json")[1])
    assert family["components"]["generator"]["options"]["base_channels"] == "int = 64"
    assert list(family["objective"]["options"]) == ["loss"]
    run = json.loads(hfgen("info", trained, "--json")[1])
    assert run["pipeline"] == "DCGANPipeline"
    assert run["last_metrics"]["step"] == 2
    assert json.loads(hfgen("info", data, "--json")[1])["classes"] == 3
    assert json.loads(hfgen("info", "dcgan-mnist", "--json")[1])["model"] == "dcgan"


def test_dry_run_writes_nothing_and_prints_a_config_that_resolves(hfgen, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = hfgen("train", "dcgan", "--dataset_name", data, *TINY, "--batch_size", 8, "--dry_run")
    assert code == 0
    assert "Nothing was written" in err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c.yaml").write_text(out)
    code, again, _ = hfgen("train", "--config", "c.yaml", "--dry_run")
    assert (code, again) == (0, out)


def test_the_saved_config_repeats_the_run(hfgen, trained, tmp_path):
    """Bit for bit, dotted options and all: weights, pictures, metrics but for times, checkpoints; and itself."""
    code, out, _ = hfgen("train", "--config", trained / "config.yaml", "--output_dir", tmp_path / "again", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 2
    kept = [path.relative_to(trained) for path in trained.rglob("*.*") if path.suffix in (".safetensors", ".png")]
    assert len(kept) > 5
    for file in [*kept, "config.yaml", "model_index.json"]:
        if "plots" not in str(file):
            assert (tmp_path / "again" / file).read_bytes() == (trained / file).read_bytes(), file
    assert metrics_but_for_times(tmp_path / "again") == metrics_but_for_times(trained)


def metrics_but_for_times(folder):
    times = ("seconds", "images_per_second", "data_wait")
    return [{name: v for name, v in line.items() if name not in times} for line in read_metrics(folder)]


def test_print_config_is_the_run_without_building_it(hfgen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "dcgan", "--dataset_name", "no/such", *TINY, "--num_processes", 2, "--print_config"]
    code, out, _ = hfgen(*words)
    assert code == 0
    (tmp_path / "c.yaml").write_text(out)
    assert hfgen("train", "--config", "c.yaml", "--print_config")[1] == out
    assert yaml.safe_load(out)["generator"] == {"base_channels": 4, "latent_dim": 6}


def test_options_of_a_saved_component(hfgen, trained, tmp_path):
    """--COMPONENT.from_config: those that it was saved with, but for what follows from the data."""
    words = ["train", "dcgan", "--dataset_name", "x", "--print_config", "--generator.latent_dim", 3]
    code, out, _ = hfgen(*words, "--generator.from_config", trained / "generator")
    assert code == 0
    saved = {"base_channels": 4, "batch_norm_momentum": 0.1, "activation": "relu", "image_bias": False}
    assert yaml.safe_load(out)["generator"] == {**saved, "latent_dim": 3}


def test_the_saved_config_serves_other_data(hfgen, trained, tmp_path):
    """Size and channels are the data's, so another resolution, or color, needs no edit."""
    color = make_data(tmp_path / "color.npz", 20, 3, num_classes=5)
    words = ["train", "--config", trained / "config.yaml", "--dataset_name", color, "--output_dir", tmp_path / "run"]
    assert hfgen(*words)[0] == 0
    components = json.loads((tmp_path / "run" / "generator" / "config.json").read_text())
    assert (components["sample_size"], components["out_channels"], components["num_classes"]) == (20, 3, 5)


def test_info_of_an_unfinished_run(hfgen, trained, tmp_path):
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert json.loads(hfgen("info", tmp_path, "--json")[1])["unfinished_run"] == str(tmp_path)


def test_errors_of_another_process_are_told_where_only_it_may_have_met_them(hfgen, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert hfgen("train", "dcgam")[2] == ""
    assert hfgen("sample", "./nowhere")[2].startswith("hfgen[1]: ")


def test_sample_a_grid_and_redraw_a_tile(hfgen, trained, tmp_path):
    assert hfgen("sample", trained, "-n", 9, "--output", tmp_path / "grid.png")[:2] == (0, f"{tmp_path}/grid.png\n")
    hfgen("sample", trained, "--seeds", 7, "--output", tmp_path / "tile.png", "--batch-size", 1)
    grid, tile = (np.asarray(Image.open(tmp_path / name), int) for name in ("grid.png", "tile.png"))
    assert grid.shape == (384, 384), "small images are enlarged so that they can be seen"
    grid = grid[::8, ::8]
    assert np.abs(grid[32:48, 16:32] - tile).max() <= 1
    last = np.asarray(Image.open(trained / "samples" / "step_000002.png"), int)
    assert np.abs(last - grid).max() <= 1, "the grid of the training is that of seeds 0 to 8"


def test_sample_a_folder_an_array_and_a_walk(hfgen, trained, tmp_path):
    hfgen("sample", trained, "--seeds", "3,5-6", "--output", tmp_path / "folder")
    seeds = [f"seed_00000{i}.png" for i in (3, 5, 6)]
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["samples.json", *seeds]
    hfgen("sample", trained, "-n", 4, "--class_labels", "0,2", "--output", tmp_path / "a.npz")
    arrays = np.load(tmp_path / "a.npz")
    assert (arrays["images"].shape, arrays["images"].dtype) == ((4, 16, 16), np.uint8)
    assert (arrays["labels"].tolist(), arrays["seeds"].tolist()) == ([0, 2, 0, 2], [0, 1, 2, 3])
    hfgen("sample", trained, "--seeds", "1,2", "--num_frames", 6, "--output", tmp_path / "walk.webp")
    with Image.open(tmp_path / "walk.webp") as walk:
        assert (walk.n_frames, walk.width) == (6, 224)


def test_sample_at_a_temperature(hfgen, trained, tmp_path):
    """At 0 there is but one latent; a scheduler without it is refused by name."""
    code = hfgen("sample", trained, "-n", 2, "--class_labels", 1, "--temperature", 0, "--output", tmp_path / "a.npz")[
        0
    ]
    images = np.load(tmp_path / "a.npz")["images"]
    assert code == 0
    assert np.array_equal(images[0], images[1])
    assert hfgen("sample", trained, "--temperature", -1)[0] == 2


def test_sample_by_another_scheduler(hfgen, tmp_path):
    """And with what only some families take; a model that samples in one step has neither."""
    from hfgen_diffusion.ddpm import DDPMPipeline

    options = {"unet.block_out_channels": [8, 8], "unet.norm_num_groups": 2, "scheduler.num_train_timesteps": 8}
    DDPMPipeline.build(8, 1, **options).save_pretrained(tmp_path / "ddpm")

    def draw(name, *words):
        code, _, err = hfgen("sample", tmp_path / "ddpm", "-n", 2, "--output", tmp_path / f"{name}.npz", *words)
        return np.load(tmp_path / f"{name}.npz")["images"] if code == 0 else (code, err)

    drawn = {s: draw(s, "--scheduler", s, "--num_inference_steps", 4) for s in ("ddpm", "ddim", "UniPC", "euler")}
    assert len({images.tobytes() for images in drawn.values()}) == 4
    assert (
        draw("eta", "--scheduler", "ddim", "--num_inference_steps", 4, "--eta", 1.0).tobytes()
        != drawn["ddim"].tobytes()
    )
    quadratic = draw("q", "--scheduler", "ddim", "--num_inference_steps", 4, "--timestep_spacing", "quadratic")
    assert quadratic.tobytes() != drawn["ddim"].tobytes()
    for words, said in (
        (["--scheduler", "dimm"], "Did you mean 'ddim'?"),
        (["--eta", "0.5"], "eta belongs to DDIM"),
        (["--guidance_scale", "2"], "class-conditional"),
        (["--temperature", "0.5"], "takes no such option. It takes --guidance_scale, --eta"),
        (["--num_inference_steps", "9"], "this model has 8"),
        (["--scheduler", "edm_euler"], "does not draw from a model such as this"),
    ):
        code, err = draw("refused", *words)
        assert code == 2
        assert said in err
    assert not (tmp_path / "refused.npz").exists()


def test_sampling_options_of_other_families_are_refused(hfgen, trained, tmp_path):
    for words, said in (
        (["--eta", "0.5"], "--eta: DCGANPipeline takes no such option"),
        (["--scheduler", "ddim"], "no such scheduler"),
    ):
        code, _, err = hfgen("sample", trained, *words, "--output", tmp_path / "a.png")
        assert code == 2
        assert said in err


def test_samples_may_be_trained_on(hfgen, trained, tmp_path):
    """What `sample` writes, `train` reads: an array."""
    hfgen("sample", trained, "-n", 4, "--output", tmp_path / "a.npz")
    assert json.loads(hfgen("info", tmp_path / "a.npz", "--json")[1])["images"] == 4


# --- what does not --------------------------------------------------------------------------------------------------

NO_DATA = "./no-such-folder"
RECIPES = Path(__file__).parents[2] / "plugins" / "hfgen_vae" / "recipes"
BAD = {
    "no model": (["train"], 2, "Which model?"),
    "unknown model": (["train", "dcgam", "--dataset_name", "mnist-mini"], 2, "Did you mean 'dcgan'"),
    "unknown option": (["train", "dcgan", "--lerning_rate", "1"], 2, "--learning_rate"),
    "unknown verb": (["trian"], 2, "train"),
    "unknown component": (["train", "dcgan", "--generater.x", "1"], 2, "Did you mean 'generator'"),
    "unknown key": (["train", "dcgan", "--generator.base_chanels", "8"], 2, "Did you mean 'base_chan"),
    "option without value": (["train", "dcgan", "--generator.base_channels"], 2, "needs a value"),
    "not a number": (["train", "dcgan", "--seed", "x"], 2, "not a valid integer"),
    "not a choice": (["train", "dcgan", "--mixed_precision", "tf32"], 2, "fp16"),
    "no data": (["train", "dcgan"], 2, "Which data?"),
    "no such data": (["train", "dcgan", "--dataset_name", NO_DATA], 2, "does not exist"),
    "mistyped folder": (["train", "dcgan", "--dataset_name", "photoz/"], 2, "does not exist: no such file or folder"),
    "wrong split": (["train", "dcgan", "--dataset_name", "mnist-mini", "--dataset_split", "dev"], 2, "no split 'dev'"),
    "no such size": (
        ["train", "dcgan", "--dataset_name", "mnist-mini", "--resolution", "30"],
        2,
        "Near sizes: 20, 24, 28, 32",
    ),
    "batch too large": (["train", "dcgan", "--dataset_name", "mnist-mini", "--batch_size", "10001"], 2, "larger than"),
    "no such config": (["train", "--config", "missing.yaml"], 2, "no config file missing.yaml"),
    "no such recipe": (["train", "missing.yaml"], 2, "no config file missing.yaml"),
    "no such checkpoint": (
        ["train", "dcgan", "--dataset_name", "mnist-mini", *TINY, "--resume_from_checkpoint", "x"],
        2,
        "'x' is not a checkpoint",
    ),
    "no such pipeline": (["sample", "./nowhere"], 1, "is not a folder"),
    "no such target": (["info", "./nowhere"], 1, "is not a folder"),
    "bad seeds": (["sample", "./nowhere", "--seeds", "a"], 2, "not a list of numbers"),
    "seeds that count down": (["sample", "./nowhere", "--seeds", "20-10"], 2, "write 10-20"),
    "another shape": (
        ["train", "dcgan", "--dataset_name", "mnist-mini", "--generator.out_channels", "3"],
        2,
        "cannot be set",
    ),
    "another latent": (
        ["train", "dcgan", "--dataset_name", "mnist-mini", "--scheduler.latent_shape", "[7]"],
        2,
        "generator.latent_dim is 100",
    ),
    "no processes": (["train", "dcgan", "--num_processes", "0"], 2, "not in the range x>=1"),
    "no such accelerate config": (
        ["train", "dcgan", "--num_processes", "2", "--accelerate_config", "fsdp"],
        2,
        "Did you mean 'fsdp2'?",
    ),
    "several processes by a config for one": (
        ["train", "dcgan", "--num_processes", "2", "--accelerate_config", "single"],
        2,
        "is for one process, not 2",
    ),
    "no option of accelerate": (
        ["train", "dcgan", "--num_processes", "2", "--", "--gpu_idz", "0"],
        2,
        "go to `accelerate launch`",
    ),
    "config of another model": (
        ["train", "dcgan", "--config", str(RECIPES / "vae-mnist.yaml")],
        2,
        "is for the model 'vae', but the command line says 'dcgan'",
    ),
    "recipe and config of two models": (
        ["train", "dcgan-mnist", "--config", str(RECIPES / "vae-mnist.yaml")],
        2,
        "dcgan-mnist.yaml says 'dcgan'",
    ),
    "option of a script": (["train", "dcgan", "--ddpm_num_steps", "5"], 2, "No such option: --ddpm_num_steps"),
    "overwritten and resumed": (
        ["train", "dcgan", "--overwrite_output_dir", "--resume_from_checkpoint", "latest"],
        2,
        "goes on; give one",
    ),
    "unknown recipe to edit": (["init", "dcgan-mnsit"], 2, "Did you mean 'dcgan-mnist"),
    "bad output": (["sample", "./nowhere", "--output", "x.docx"], 2, "not a format in which"),
    "bad list": (["list", "modles"], 2, "models"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.whole
def test_bad_calls_say_what_and_exit_rightly(hfgen, tmp_path, monkeypatch, name):
    """One message of at most six lines, the right code, no traceback, nothing written."""
    monkeypatch.chdir(tmp_path)
    words, expected_code, text = BAD[name]
    code, out, err = hfgen(*words)
    assert (code, out) == (expected_code, ""), err
    assert text in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 6
    assert list(tmp_path.iterdir()) == []


def test_bad_calls_on_a_trained_model(hfgen, trained, tmp_path):
    assert "class_labels must lie in 0..2" in hfgen("sample", trained, "--class_labels", 7)[2]
    (tmp_path / "taken.png").touch()
    code, _, err = hfgen("sample", trained, "--output", tmp_path / "taken.png")
    assert (code, "exists; nothing was sampled" in err) == (2, True)
    code, _, err = hfgen("train", "dcgan", "--dataset_name", "mnist-mini", "--output_dir", trained)
    assert (code, "is not empty; nothing was written" in err) == (2, True)
    assert (trained / "model_index.json").is_file()


def test_an_unknown_key_in_a_config_file_is_named(hfgen, tmp_path):
    (tmp_path / "c.yaml").write_text("model: dcgan\nlerning_rate: 1\n")
    code, _, err = hfgen("train", "--config", tmp_path / "c.yaml")
    assert code == 2
    assert "c.yaml: unknown key 'lerning_rate'. Did you mean 'learning_rate'" in err


def test_debug_shows_the_traceback(hfgen, monkeypatch):
    monkeypatch.setenv("HFGEN_DEBUG", "0")
    code, _, err = hfgen("--debug", "train", "dcgam")
    assert code == 2
    assert "Traceback" in err


def test_the_console_script_is_installed():
    from importlib.metadata import entry_points

    [script] = [e for e in entry_points(group="console_scripts") if e.name == "hfgen"]
    assert script.value == "hfgen.commands.main:main"
    assert sys.version_info >= (3, 11)
