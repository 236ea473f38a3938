"""diffusers' train_unconditional.py: its command with the script's path changed."""

import json
import shlex

import pytest
import torch
import yaml
from command_line import finished

from hfgen import train
from hfgen.commands.recipes import list_recipes, read_recipe
from hfgen.commands.script_options import script_options, take_out, translate
from hfgen.commands.train import command
from hfgen.run_folder import read_metrics
from hfgen.testing import make_data

# Its 45 options, each with a value of its own, in the order of its parser.
ALL = """
    --dataset_name=blobs.npz --dataset_config_name=default --model_config_name_or_path=unet --train_data_dir=photos
    --output_dir=out --overwrite_output_dir --cache_dir=cache --resolution=16 --center_crop --random_flip
    --train_batch_size=4 --eval_batch_size=3 --dataloader_num_workers=1 --num_epochs=7 --save_images_epochs=2
    --save_model_epochs=5 --gradient_accumulation_steps=2 --learning_rate=3e-4 --lr_scheduler=linear
    --lr_warmup_steps=20 --adam_beta1=0.91 --adam_beta2=0.99 --adam_weight_decay=1e-5 --adam_epsilon=1e-7 --use_ema
    --ema_inv_gamma=2.0 --ema_power=0.5 --ema_max_decay=0.99 --push_to_hub --hub_token=hf_secret --hub_model_id=me/it
    --hub_private_repo --logger=wandb --logging_dir=mine --local_rank=0 --mixed_precision=bf16
    --prediction_type=sample --ddpm_num_steps=8 --ddpm_num_inference_steps=4 --ddpm_beta_schedule=squaredcos_cap_v2
    --checkpointing_steps=9 --checkpoints_total_limit=6 --resume_from_checkpoint=latest
    --enable_xformers_memory_efficient_attention --preserve_input_precision
"""
README = """
    --dataset_name=huggan/flowers-102-categories --resolution=64 --center_crop --random_flip
    --output_dir=ddpm-ema-flowers-64 --train_batch_size=16 --num_epochs=100 --gradient_accumulation_steps=1 --use_ema
    --learning_rate=1e-4 --lr_warmup_steps=500 --mixed_precision=no --push_to_hub
"""
TINY = {
    "_class_name": "UNet2DModel",
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 2,
}


@pytest.fixture
def script(empty_folder):
    """Runs hfgen/train.py with these words, where there are data and a tiny network's config."""
    make_data(empty_folder / "blobs.npz", 16, 1)
    (empty_folder / "unet").mkdir()
    (empty_folder / "unet" / "config.json").write_text(json.dumps(TINY))

    return lambda words, *more: finished(train.main, *shlex.split(words), *more)


def test_all_45_options_in_one_command_line(script):
    assert len(shlex.split(ALL)) == 45
    code, out, err = script(ALL, "--print_config")
    assert code == 0, err
    resolved = yaml.safe_load(out)
    expected = {
        "model": "ddpm",
        "dataset_name": "blobs.npz",
        "dataset_config_name": "default",
        "train_data_dir": None,
        "resolution": 16,
        "center_crop": True,
        "random_flip": True,
        "train_batch_size": 4,
        "num_validation_images": 3,
        "dataloader_num_workers": 1,
        "num_train_epochs": 7,
        "validation_epochs": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 3e-4,
        "lr_scheduler": "linear",
        "lr_warmup_steps": 20,
        "adam_beta1": 0.91,
        "adam_beta2": 0.99,
        "adam_weight_decay": 1e-5,
        "adam_epsilon": 1e-7,
        "use_ema": True,
        "ema_inv_gamma": 2.0,
        "ema_power": 0.5,
        "ema_decay": 0.99,
        "report_to": "wandb",
        "mixed_precision": "bf16",
        "num_inference_steps": 4,
        "checkpointing_steps": 9,
        "checkpoints_total_limit": 6,
    }
    assert {name: resolved[name] for name in expected} == expected
    scheduler = {"prediction_type": "sample", "num_train_timesteps": 8, "beta_schedule": "squaredcos_cap_v2"}
    assert resolved["scheduler"] == {**resolved["scheduler"], **scheduler}
    shape = ("_class_name", "sample_size", "in_channels", "out_channels")
    own = {name: value for name, value in TINY.items() if name not in shape}
    assert resolved["unet"] == {"class_name": "UNet2DModel", **own}
    assert "hf_secret" not in out


def test_what_has_no_effect_is_told_in_a_line_each(script):
    recipe = script_options(list_recipes()["train_unconditional"])
    rest, taken = take_out(shlex.split(ALL), {p.name for p in command.params})
    given = {
        "dataset_name": "a",
        "train_data_dir": "b",
        "overwrite_output_dir": True,
        "resume_from_checkpoint": "latest",
    }
    _, kept, notes = translate(recipe, taken, {**given, "center_crop": True})
    assert kept == {"dataset_name": "a", "resume_from_checkpoint": "latest", "center_crop": True}
    told = [note.partition(" ")[0].removeprefix("--") for note in notes]
    ignored = ["train_data_dir", "overwrite_output_dir", "save_model_epochs", "logging_dir", "local_rank"]
    assert told == [*ignored, "enable_xformers_memory_efficient_attention", "preserve_input_precision"]
    assert len(rest) == 45 - len(taken)
    assert not translate({}, {}, {"dataset_name": "a", "train_data_dir": "b"})[2]


def test_each_option_of_the_script_is_spoken_of_once():
    spec = script_options(list_recipes()["train_unconditional"])
    for name, what in spec.items():
        assert set(what) <= {"to", "ignored", "beside", "absent", "flag"}, name
        assert sum(key in what for key in ("to", "ignored", "absent")) == 1, name
    assert set(spec) <= {word[2:].partition("=")[0] for word in shlex.split(ALL)}


def test_the_command_of_its_readme(script):
    """What it names, and what the script's defaults are where it names nothing."""
    code, out, err = script(README, "--print_config")
    assert code == 0, err
    resolved = yaml.safe_load(out)
    expected = {
        "num_train_epochs": 100,
        "train_batch_size": 16,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 500,
        "adam_beta1": 0.95,
        "adam_weight_decay": 1e-6,
        "max_grad_norm": 1.0,
        "use_ema": True,
        "ema_decay": 0.9999,
        "ema_power": 0.75,
        "mixed_precision": "no",
        "report_to": "none",
    }
    assert {name: resolved[name] for name in expected} == expected
    without = yaml.safe_load(script("--dataset_name blobs.npz", "--print_config")[1])
    assert (without["use_ema"], without["random_flip"], without["resolution"]) == (False, False, 64)


def test_the_network_and_the_noise_are_the_scripts(script):
    """As its lines make them, which leave everything else to diffusers' defaults."""
    from diffusers import DDPMScheduler, UNet2DModel

    from hfgen.commands.recipes import resolve_run

    down = ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"]
    up = ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4
    blocks = {"down_block_types": down, "up_block_types": up, "block_out_channels": (128, 128, 256, 256, 512, 512)}
    resolved, family = resolve_run("train_unconditional", None, {}, {})
    ours = family.default_configs(64, 3, None, resolved.components)
    with torch.device("meta"):
        theirs = UNet2DModel(64, 3, 3, layers_per_block=2, **blocks)
        given = {name: value for name, value in resolved.components["unet"].items() if name != "class_name"}
        unet = UNet2DModel(**{**ours["unet"], **given})
    noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    scheduler = DDPMScheduler(**{**ours["scheduler"], **resolved.components["scheduler"]})

    def plain(config):
        return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if not k.startswith("_")}

    assert plain(unet.config) == plain(theirs.config)
    assert plain(scheduler.config) == plain(noise.config)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_the_loss_is_the_scripts(prediction_type):
    """Of noise the squared error, of an image that times the signal-to-noise ratio."""
    from diffusers import DDPMScheduler, UNet2DModel

    from hfgen.noise import StepNoise
    from hfgen_diffusion.objective import DDPMObjective

    torch.manual_seed(0)
    unet = UNet2DModel(**{k: v for k, v in TINY.items() if k != "_class_name"})
    gamma = read_recipe(list_recipes()["train_unconditional"])["objective"]["snr_gamma"]
    scheduler = DDPMScheduler(num_train_timesteps=100, prediction_type=prediction_type)
    objective = DDPMObjective(unet, scheduler, snr_gamma=gamma)
    objective.noise, again = (StepNoise(0, 0, slice(0, 4), 4) for _ in range(2))
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    t, epsilon = again.integers(100), again.normal(3, 16, 16)
    output = unet(scheduler.add_noise(images, epsilon, t), t).sample
    alpha = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    theirs = ((output - epsilon) ** 2).mean()
    if prediction_type == "sample":
        theirs = (alpha / (1 - alpha) * (output - images) ** 2).mean()
    [update] = objective.training_step({"pixel_values": images})
    assert update.loss.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_a_tiny_one_trains_and_plain_diffusers_reads_it(script, tmp_path):
    from diffusers import DDPMPipeline

    tiny = README.replace("huggan/flowers-102-categories", "blobs.npz").replace("--resolution=64", "--resolution=16")
    tiny = tiny.replace("--train_batch_size=16", "--train_batch_size=4").replace(
        "--push_to_hub", "--eval_batch_size=2"
    )
    tiny += " --model_config_name_or_path=unet --ddpm_num_steps=4 --max_train_steps=3 --save_model_epochs=1"
    code, out, err = script(tiny)
    assert (code, out) == (0, "ddpm-ema-flowers-64\n"), err
    assert "--save_model_epochs has no effect: the model is saved at the end" in err
    assert read_metrics(tmp_path / "ddpm-ema-flowers-64")[-1]["step"] == 3
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "ddpm-ema-flowers-64")
    assert pipeline.scheduler.config.num_train_timesteps == 4
    assert list(pipeline.unet.config.block_out_channels) == [8, 8]


def test_the_script_stands_in_only_where_no_model_is_named(script, tmp_path):
    def model(words):
        return yaml.safe_load(script(words, "--print_config")[1])["model"]

    assert model("--dataset_name x") == "ddpm"
    assert model("dcgan --dataset_name x") == "dcgan"
    assert model("--model vae --dataset_name x") == "vae"
    (tmp_path / "c.yaml").write_text("model: glow\n")
    assert model("--config c.yaml") == "glow"
    (tmp_path / "c.yaml").write_text("seed: 3\n")
    assert model("--config c.yaml") == "ddpm"


def test_options_of_the_script_belong_to_its_recipe(script, tmp_path):
    code, _, err = script("dcgan --dataset_name blobs.npz --ddpm_num_steps 5")
    assert (code, "It belongs to the recipe train_unconditional." in err) == (2, True)
    code, _, err = script("--dataset_name blobs.npz --ddpm_num_stepz 5")
    assert (code, "No such option" in err) == (2, True)
    code, _, err = script("--dataset_name blobs.npz --ddpm_num_steps")
    assert (code, "needs a value" in err) == (2, True)
    (tmp_path / "empty").mkdir()
    code, _, err = script("--dataset_name blobs.npz --model_config_name_or_path empty")
    assert (code, "--unet.from_config 'empty': no config of a UNet2DModel there" in err) == (2, True), err
    (tmp_path / "unet" / "config.json").write_text(json.dumps({**TINY, "_class_name": "AutoencoderKL"}))
    code, _, err = script("--dataset_name blobs.npz --model_config_name_or_path unet")
    assert (code, "is of a AutoencoderKL, not a UNet2DModel" in err) == (2, True)


def test_a_run_is_set_aside_before_it_is_overwritten(script, tmp_path):
    tiny = "dcgan --dataset_name blobs.npz --generator.base_channels 4 --discriminator.base_channels 4 --max_steps 1"
    tiny += " --batch_size 4 --num_validation_images 1 --output_dir out"
    assert script(tiny)[0] == 0
    config = (tmp_path / "out/config.yaml").read_text()
    assert "overwrite" not in config
    code, _, err = script(tiny, "--overwrite_output_dir", "--seed", "5", "--dataset_name", "nowhere.npz")
    assert code == 2
    assert not (tmp_path / "out.old-1").exists(), "nothing is moved for a run that cannot begin"
    for number in (1, 2):
        code, _, err = script(tiny, "--overwrite_output_dir", "--seed", "5")
        assert code == 0
        assert f"the run that was in out is now in out.old-{number}" in err
    assert (tmp_path / "out.old-1/config.yaml").read_text() == config
    assert "seed: 5" in (tmp_path / "out/config.yaml").read_text()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").touch()
    code, _, err = script(tiny.replace("--output_dir out", "--output_dir photos"), "--overwrite_output_dir")
    assert (code, "no run of hfgen; nothing was written" in err) == (2, True)
    code, _, err = script(tiny, "--overwrite_output_dir", "--resume_from_checkpoint", "latest")
    assert (code, "starts a new run, --resume_from_checkpoint goes on" in err) == (2, True)
