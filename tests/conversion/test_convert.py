"""Converting: what other libraries compute of their checkpoints, hfgen computes of the folder that it makes of them.

`converted/` holds checkpoints of torchgan and pythae with what these libraries compute of them; `converted/make.py`
made them. The tutorial's networks are here, and diffusers is installed.
"""

import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import command_line
import diffusers
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard
from plugin_site import install, on_path
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules import module as hooks

from hfgen import HFGenPipeline
from hfgen.conversion import convert
from hfgen.conversion.convert import check, fill, open_source
from hfgen.conversion.converter import converter_of, recognize
from hfgen.conversion.foreign_files import ForeignFiles, plain_state_dict
from hfgen.errors import CheckError, LoadError, PluginError, UsageError
from hfgen.hub.contents import prepared
from hfgen.hub.upload import Place
from hfgen.registry import CONVERTERS, installed
from hfgen_gan.converters import build

HERE = Path(__file__).parent / "converted"
CLOSE = {"atol": 1e-5, "rtol": 0}


class TutorialGenerator(nn.Module):
    """As the tutorial's: 4 -> 8 -> 16 pixels here, each width half of the one before."""

    def __init__(self, nz=5, ngf=3, nc=2, kernel=4, bias=False):
        super().__init__()
        self.main = nn.Sequential(
            *(nn.ConvTranspose2d(nz, 2 * ngf, kernel, 1, 0, bias=False), nn.BatchNorm2d(2 * ngf), nn.ReLU(True)),
            *(nn.ConvTranspose2d(2 * ngf, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True)),
            *(nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=bias), nn.Tanh()),
        )

    def forward(self, z):
        return self.main(z)


class TutorialDiscriminator(nn.Module):
    def __init__(self, ndf=2, nc=2):
        super().__init__()
        self.main = nn.Sequential(
            *(nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(ndf, 2 * ndf, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * ndf), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(2 * ndf, 1, 4, 1, 0, bias=False), nn.Sigmoid()),
        )

    def forward(self, x):
        return self.main(x)


def random(model, seed=0):
    """With other values in each tensor, BatchNorm's statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) / 3
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return model.eval()


def hfgen(*words):
    """Exit code and output of `hfgen convert`."""
    done = command_line.hfgen("convert", *words)
    return done.code, done.out + done.err


def converted(source, target, *options):
    code, output = hfgen(source, target, "--allow_pickle", *options)
    assert code == 0, output
    assert {path.name for path in Path(target).iterdir()} >= {"README.md", "model_index.json"}
    assert not list(Path(target).glob(".*"))
    return HFGenPipeline.from_pretrained(target)


def refused(words, source, target, *options, code=2):
    """With this message, and nothing is left."""
    found, output = hfgen(source, target, *options)
    assert found == code, output
    assert words in " ".join(output.split()), output
    assert len(output.strip().splitlines()) <= 6, output
    assert not Path(target).exists()


# --- PyTorch's tutorial ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap", ["bare", "DataParallel", "in a dictionary", "safetensors", "before BatchNorm counted"]
)
def test_the_tutorials_generator_draws_its_images(wrap, tmp_path):
    model = random(TutorialGenerator())
    tensors = model.state_dict()
    if wrap == "DataParallel":
        tensors = nn.DataParallel(model).state_dict()
    if wrap == "before BatchNorm counted":
        tensors = {name: tensor for name, tensor in tensors.items() if "num_batches" not in name}
    if wrap == "safetensors":
        save_file(tensors, source := tmp_path / "netG.safetensors")
    else:
        torch.save(
            {"epoch": 3, "netG": tensors} if wrap == "in a dictionary" else tensors, source := tmp_path / "G.pth"
        )
    pipeline = converted(source, tmp_path / "made")
    z = torch.randn(4, 5)
    torch.testing.assert_close(pipeline.decode(z), model(z[:, :, None, None]), **CLOSE)
    assert pipeline.discriminator is None
    assert pipeline(seeds=[1]).images[0].size == (16, 16)


def test_a_folder_of_both_networks(tmp_path):
    (tmp_path / "out").mkdir()
    models = {"netG": random(TutorialGenerator()), "netD": random(TutorialDiscriminator())}
    for name, model in models.items():
        torch.save(model.state_dict(), tmp_path / "out" / f"{name}_epoch_24.pth")
    pipeline = converted(tmp_path / "out", tmp_path / "made")
    x = torch.rand(4, 2, 16, 16) * 2 - 1
    torch.testing.assert_close(pipeline.discriminator(x).sigmoid(), models["netD"](x).flatten(), **CLOSE)
    torch.save({}, tmp_path / "out" / "netG_epoch_25.pth")
    refused("name the one to convert", tmp_path / "out", tmp_path / "again", "--allow_pickle")


def test_the_sizes_are_those_of_the_tensors(tmp_path):
    """28 pixels from 7, one channel, a bias in the last layer; the user's word for what tensors do not tell."""
    model = random(TutorialGenerator(nz=3, ngf=2, nc=1, kernel=7, bias=True))
    torch.save(model.state_dict(), tmp_path / "netG.pth")
    options = ("--scheduler.distribution", "uniform", "--generator.batch_norm_momentum=0.2")
    pipeline = converted(tmp_path / "netG.pth", tmp_path / "made", *options)
    z = torch.rand(2, 3)
    torch.testing.assert_close(pipeline.decode(z), model(z[:, :, None, None]), **CLOSE)
    assert pipeline.decode(z).shape == (2, 1, 28, 28)
    assert pipeline.scheduler.config.distribution == "uniform"
    assert pipeline.generator.config.batch_norm_momentum == 0.2


def test_what_is_not_the_tutorials_is_named(tmp_path):
    tensors = random(TutorialGenerator()).state_dict()
    discriminator = random(TutorialDiscriminator()).state_dict()
    first = {name: tensors[name] for name in ("main.0.weight", "main.1.weight")}
    cases = {
        "no place for: main.0.bias (6)": {**tensors, "main.0.bias": torch.zeros(6)},
        "missing: main.4.running_mean": {k: t for k, t in tensors.items() if k != "main.4.running_mean"},
        "blocks.1.0.weight: 6x3x3x3 there, 6x3x4x4 here": {**tensors, "main.3.weight": torch.zeros(6, 3, 3, 3)},
        "have 6, 6 channels; a DCGAN's halve": {**tensors, "main.3.weight": torch.zeros(6, 6, 4, 4)},
        "holds infinities or what is no number": {**tensors, "main.6.weight": torch.full((3, 2, 4, 4), torch.nan)},
        "no ordinary array": {**tensors, "main.6.weight": torch.zeros(1).expand(3, 2, 4, 4)},
        "holds no generator": random(TutorialDiscriminator()).state_dict(),
        "holds several generators: a, b": {"a": tensors, "b": tensors},
        "no place for: other (2)": {"other": torch.zeros(2), **tensors},
        "no place for: extra.weight (3)": {"D": discriminator | {"extra.weight": torch.zeros(3)}, "G": tensors},
        "it has the tensors other (2), main.0.weight (5x6x4x4)": {"other": torch.zeros(2), **first},
        "holds no state dict but a list": [1, 2],
    }
    for words, content in cases.items():
        torch.save(content, tmp_path / "it.pth")
        refused(words, tmp_path / "it.pth", tmp_path / "made", "--allow_pickle")


@pytest.mark.parametrize("name", ["pytorch-dcgan", "torchgan"])
def test_the_tensor_that_finds_no_place_is_named(name, tmp_path):
    """With the format said, and without."""
    tensors = random(TutorialGenerator()).state_dict()
    if name == "torchgan":
        tensors = torch.load(HERE / "torchgan" / "generator.pt")
    torch.save({**tensors, "extra.weight": torch.zeros(3)}, tmp_path / "it.pth")
    for options in ((), ("--format", name)):
        refused("no place for: extra.weight (3)", tmp_path / "it.pth", tmp_path / "made", "--allow_pickle", *options)


def bytes_of(*shape):
    """A tensor of few bytes: what a network would hold as four for each element."""
    return torch.zeros(shape, dtype=torch.int8)


def test_a_small_file_asks_for_no_large_gan(tmp_path):
    """The networks that these kernels claim have some hundred gigabytes; nothing of that is allocated."""
    generator = {"main.0.weight": bytes_of(1, 64, 1, 4096), "main.3.weight": bytes_of(64, 1, 4, 4)}
    generator |= {f"main.1.{part}": bytes_of(64) for part in ("weight", "bias", "running_mean", "running_var")}
    torch.save(generator, tmp_path / "netG.pth")
    words = "not of the architecture of DCGANGenerator. In hfgen's names: generator.blocks.1.0.weight: nothing there"
    refused(words, tmp_path / "netG.pth", tmp_path / "made", "--allow_pickle")
    discriminator = random(TutorialDiscriminator(ndf=1)).state_dict() | {"main.0.weight": bytes_of(1 << 16, 1, 4, 4)}
    torch.save({"G": random(TutorialGenerator(nc=1)).state_dict(), "D": discriminator}, tmp_path / "both.pth")
    words = "architecture of DCGANDiscriminator. In hfgen's names: discriminator.blocks.0.0.weight: 2x1x4x4 there"
    refused(words, tmp_path / "both.pth", tmp_path / "made", "--allow_pickle")


def test_a_discriminator_that_is_left_out_is_smaller_than_the_generator():
    """One of the default width, built and dropped, would have 4,096 times the parameters of this generator."""
    sizes = []
    hook = hooks.register_module_parameter_registration_hook(lambda _, __, tensor: sizes.append(tensor.numel()))
    shapes = [(5, 8, 4, 4), *((8 >> i, 4 >> i, 4, 4) for i in range(3)), (1, 2, 4, 4)]
    with hook, torch.device("meta"):
        build([torch.empty(shape) for shape in shapes], {}, {})
    assert max(sizes) == 5 * 8 * 16


# --- torchgan, StudioGAN --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "options"), [("generator.pt", ()), ("both.pt", ("--generator.activation", "relu"))])
def test_torchgans_generator_draws_its_images(file, options, tmp_path):
    expected = load_file(HERE / "torchgan" / "expected.safetensors")
    pipeline = converted(HERE / "torchgan" / file, tmp_path / "made", *options)
    name = "relu" if options else "leaky"
    torch.testing.assert_close(pipeline.decode(expected["latents"]), expected[name], **CLOSE)
    card = (tmp_path / "made" / "README.md").read_text()
    assert ("discriminator, which ends in a LeakyReLU, was left out" in card) == (file == "both.pt")


def test_studiogan_is_told_what_differs(tmp_path):
    tensors = {"linear0.weight": torch.zeros(8192, 80), "linear0.bias": torch.zeros(8192)}
    tensors |= {"blocks.0.0.deconv0.weight": torch.zeros(8, 4, 4, 4), "blocks.0.0.bn0.running_mean": torch.zeros(4)}
    tensors["conv4.weight"] = torch.zeros(3, 4, 3, 3)
    torch.save({"state_dict": tensors, "step": 7, "seed": 1}, tmp_path / "model=G-best-weights-step=7.pth")
    words = "linear0.weight (8192x80), conv4.weight (3x4x3x3), blocks.0.0.deconv0.weight (8x4x4x4) have no place"
    refused(words, tmp_path / "model=G-best-weights-step=7.pth", tmp_path / "made", "--allow_pickle")


# --- pythae ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_pythaes_vae_encodes_decodes_and_reconstructs(loss, tmp_path):
    expected = load_file(HERE / f"pythae-{loss}" / "expected.safetensors")
    pipeline = converted(HERE / f"pythae-{loss}", tmp_path / "made")
    images = expected["images"] * 2 - 1
    mean, logvar = pipeline.posterior(images)
    torch.testing.assert_close(mean, expected["mean"], **CLOSE)
    torch.testing.assert_close(logvar, expected["logvar"], **CLOSE)
    torch.testing.assert_close(pipeline.encode(images), expected["mean"], **CLOSE)
    torch.testing.assert_close((pipeline.decode(expected["latents"]) + 1) / 2, expected["decoded"], **CLOSE)
    torch.testing.assert_close((pipeline.reconstruct(images) + 1) / 2, expected["reconstructions"], **CLOSE)
    assert pipeline(seeds=[3]).images[0].size == (2, 2)


def test_pythaes_loss_is_the_likelihood(tmp_path):
    """ "mse" is 0.5 |x - mean|^2 of images in [0, 1] and its Gaussian's constant; beta is what it was."""
    expected = load_file(HERE / "pythae-mse" / "expected.safetensors")
    pipeline = converted(HERE / "pythae-mse", tmp_path / "made")
    images, latents = expected["images"] * 2 - 1, expected["latents"]
    log_prob = pipeline.likelihood.log_prob(pipeline.likelihood_parameters(latents), images)
    theirs = -0.5 * (expected["images"] - expected["decoded"]).square().flatten(1).sum(1)
    constant = -2 * torch.log(torch.tensor(2 * torch.pi)) - 4 * torch.log(
        torch.tensor(2.0)
    )  # of 4 pixels twice as wide
    torch.testing.assert_close(log_prob, theirs + constant, **CLOSE)
    assert pipeline.beta_scheduler.config.beta == 4.0


def test_gray_images_as_pythae_encodes_them(tmp_path):
    source = HERE / "pythae-bce"
    pipeline = converted(source, tmp_path / "made", "--likelihood.class_name", "GaussianLikelihood")
    assert pipeline.decoder.config.bounded
    decoded = load_file(source / "expected.safetensors")
    torch.testing.assert_close((pipeline.decode(decoded["latents"]) + 1) / 2, decoded["decoded"], **CLOSE)


@pytest.mark.parametrize(
    ("words", "change"),
    {
        "networks of its author's own (encoder)": {"uses_default_encoder": False},
        "of its models hfgen has these: VAE, BetaVAE": {"name": "VAMPConfig"},
        "images of 3x2 pixels": {"input_dim": [1, 2, 3]},
        "input_dim is [4]": {"input_dim": [4]},
        "input_dim is [1, 90000, 90000], but the encoder takes 4 values": {"input_dim": [1, 90000, 90000]},
        "input_dim is [1, -2, -2]": {"input_dim": [1, -2, -2]},
        "'cross_entropy' is not mse or bce": {"reconstruction_loss": "cross_entropy"},
    }.items(),
)
def test_what_pythae_has_and_hfgen_has_not(words, change, tmp_path):
    shutil.copytree(HERE / "pythae-bce", tmp_path / "source")
    config = json.loads((tmp_path / "source" / "model_config.json").read_text())
    (tmp_path / "source" / "model_config.json").write_text(json.dumps(config | change))
    refused(words, tmp_path / "source", tmp_path / "made", "--allow_pickle")


def test_pythaes_layers_are_linear(tmp_path):
    shutil.copytree(HERE / "pythae-bce", tmp_path / "source")
    weights = tmp_path / "source" / "model.pt"
    tensors = torch.load(weights)["model_state_dict"]
    torch.save({"model_state_dict": {**tensors, "encoder.embedding.bias": torch.ones(())}}, weights)
    refused("not linear layers: encoder:mean.bias", tmp_path / "source", tmp_path / "made", "--allow_pickle")


def test_a_small_file_asks_for_no_large_vae(tmp_path):
    """Hidden and latent widths are those of the biases, which here are a million for one row of weights each."""
    shutil.copytree(HERE / "pythae-bce", tmp_path / "source")
    weights = tmp_path / "source" / "model.pt"
    tensors = torch.load(weights)["model_state_dict"]
    wide = ("encoder.layers.0.0.bias", "encoder.embedding.bias", "encoder.log_var.bias")
    torch.save({"model_state_dict": tensors | {name: bytes_of(1_000_000) for name in wide}}, weights)
    words = "architecture of MLPEncoder. In hfgen's names: encoder.layers.0.weight: "
    refused(words, tmp_path / "source", tmp_path / "made", "--allow_pickle")
    torch.save({"model_state_dict": tensors | {"encoder.log_var.weight": bytes_of(2, 9)}}, weights)
    refused("mean and log variance are of different sizes", tmp_path / "source", tmp_path / "made", "--allow_pickle")


def test_what_pythaes_mse_was_is_told(tmp_path):
    """Its factor of 0.5 came with a version that no file tells."""
    for words, number in (((), 1), (("--likelihood.sigma", "1.4142"), 0)):
        converted(HERE / "pythae-mse", tmp_path / f"made-{number}", *words)
        assert (tmp_path / f"made-{number}" / "README.md").read_text().count("since its version 0.1.2") == number


def test_pickled_code_of_pythae_is_never_read(tmp_path):
    """Whatever the config says of it."""
    shutil.copytree(HERE / "pythae-bce", tmp_path / "source")
    (tmp_path / "source" / "decoder.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refused("pickled code, which is not read", tmp_path / "source", tmp_path / "made", "--allow_pickle")
    assert not (tmp_path / "exploded").exists()


# --- diffusers ------------------------------------------------------------------------------------------------------

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def saved_by_diffusers(folder, **options):
    """A tiny pipeline of plain diffusers, saved."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=10))
    pipeline.save_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def as_the_first_repositories(folder):
    """All beside the index, weights pickled, attention under its old names: as google/ddpm-cifar10-32."""
    (folder / "unet" / "config.json").rename(folder / "config.json")
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "scheduler_config.json")
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for new, old in OLD.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    assert any("proj_attn" in name for name in tensors)
    torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "scheduler")


def images_of(pipeline):
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return pipeline(batch_size=2, generator=generators, num_inference_steps=10, output_type="np").images


@pytest.mark.parametrize("layout", ["pickled, in shards", "first repositories", "safetensors"])
def test_diffusers_pipelines(layout, tmp_path):
    """hfgen's images of the folder, and plain diffusers' of the folder, are those of plain diffusers of the source."""
    sharded = {"safe_serialization": False, "max_shard_size": "50KB"} if layout == "pickled, in shards" else {}
    plain_state_dict = saved_by_diffusers(tmp_path / "source", **sharded)
    assert (len(list(tmp_path.glob("source/unet/*.bin"))) > 1) == bool(sharded)
    if layout == "first repositories":
        as_the_first_repositories(tmp_path / "source")
    options = [] if layout == "safetensors" else ["--allow_pickle"]
    code, output = hfgen(tmp_path / "source", tmp_path / "made", *options)
    assert code == 0, output
    ours = HFGenPipeline.from_pretrained(tmp_path / "made")(seeds=[0, 1], output_type="np").images
    assert abs(ours - images_of(plain_state_dict)).max() < 1e-5
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "made")
    again.set_progress_bar_config(disable=True)
    assert abs(images_of(again) - images_of(plain_state_dict)).max() < 1e-5


def test_a_single_network_needs_a_family(tmp_path):
    unet = saved_by_diffusers(tmp_path / "source", safe_serialization=False).unet
    source = tmp_path / "source" / "unet"
    refused("Say what it is of: --model NAME", source, tmp_path / "made", "--allow_pickle")
    refused("no component that is a UNet2DModel", source, tmp_path / "made", "--allow_pickle", "--model", "vae")
    options = (
        "--model",
        "ddim",
        "--scheduler.num_train_timesteps",
        "7",
        "--scheduler.beta_schedule",
        "squaredcos_cap_v2",
    )
    pipeline = converted(source, tmp_path / "made", *options)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(pipeline.unet(x, 3).sample, unet.eval()(x, 3).sample, **CLOSE)
    assert type(pipeline).__name__ == "DDIMPipeline"
    config = pipeline.scheduler.config
    assert (config.num_train_timesteps, config.beta_schedule) == (7, "squaredcos_cap_v2")
    card = (tmp_path / "made" / "README.md").read_text()
    assert "scheduler.num_train_timesteps = 7" in card
    assert "a single UNet2DModel, without a scheduler" in card
    assert "a DDIMScheduler with num_train_timesteps = 7, beta_start = 0.0001, beta_end = 0.02, beta_sch" in card
    assert "`--scheduler.KEY VALUE`" in card


def test_a_single_autoencoder_is_its_familys(tmp_path):
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2, sample_size=8).eval()
    vae.save_pretrained(tmp_path / "source", safe_serialization=False)
    pipeline = converted(tmp_path / "source", tmp_path / "made")
    latents = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(pipeline.vae.decode(latents).sample, vae.decode(latents).sample, **CLOSE)


def test_diffusers_settings(tmp_path):
    saved_by_diffusers(tmp_path / "source")
    pipeline = converted(tmp_path / "source", tmp_path / "made", "--scheduler.clip_sample", "false")
    assert pipeline.scheduler.config.clip_sample is False
    refused("only settings of scheduler can be given", tmp_path / "source", tmp_path / "a", "--unet.act_fn", "relu")
    refused("unknown option 'beta'", tmp_path / "source", tmp_path / "a", "--scheduler.beta", "1")
    refused("says itself that it is a DDPMPipeline", tmp_path / "source", tmp_path / "a", "--model", "ddim")
    refused("hfgen's own already", tmp_path / "made", tmp_path / "a")
    index = tmp_path / "source" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"../out": ["diffusers", "UNet2DModel"]}))
    refused("names a component '../out'", tmp_path / "source", tmp_path / "a", code=1)
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DModel"]}))
    refused("a StableDiffusionPipeline, which no installed family makes", tmp_path / "source", tmp_path / "a")


# --- pickles --------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled in the ordinary way, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Zeros:
    """Bytes without end, for torch's unpickler one of the plain values."""

    def __reduce__(self):
        return bytearray, (1000,)


def test_a_pickle_is_read_on_the_users_word_only(tmp_path):
    saved_by_diffusers(tmp_path / "ddpm", safe_serialization=False)
    sources = [HERE / "torchgan" / "generator.pt", HERE / "pythae-mse", tmp_path / "ddpm"]
    for source in sources:
        refused("is a pickle, which can run code when it is read", source, tmp_path / "made")


@pytest.mark.parametrize("protocol", ["torch", "plain"])
def test_a_pickle_of_more_than_tensors_is_refused(protocol, tmp_path, monkeypatch):
    """Whatever the environment says."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = {"main.0.weight": torch.zeros(1, 1, 4, 4), "bomb": Bomb(tmp_path / "exploded")}
    if protocol == "torch":
        torch.save(content, tmp_path / "netG.pth")
    else:
        (tmp_path / "netG.pth").write_bytes(pickle.dumps(content["bomb"], protocol=2))
    refused("mkdir, which is code", tmp_path / "netG.pth", tmp_path / "made", "--allow_pickle")
    assert not (tmp_path / "exploded").exists()
    torch.save({"generator": TutorialGenerator()}, tmp_path / "whole.pth")
    refused(
        "test_convert.TutorialGenerator, which is code", tmp_path / "whole.pth", tmp_path / "made", "--allow_pickle"
    )
    torch.save({"a": Zeros()}, tmp_path / "zeros.pth")
    refused("holds a bytearray", tmp_path / "zeros.pth", tmp_path / "made", "--allow_pickle")
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(
        "it is no torch file of tensors, or a damaged one", tmp_path / "empty.pth", tmp_path / "made", "--allow_pickle"
    )
    (tmp_path / "cut.pth").write_bytes((HERE / "torchgan" / "generator.pt").read_bytes()[:1000])
    refused("is refused or damaged", tmp_path / "cut.pth", tmp_path / "made", "--allow_pickle")


@pytest.mark.parametrize("protocol", [*range(6), "in an archive"])
def test_nobody_is_told_how_to_run_a_refused_pickle(protocol, tmp_path):
    """torch's own message tells it; here the code is named, in words of hfgen's alone, whatever the protocol."""
    bomb = Bomb(tmp_path / "exploded")
    for name in ("bad.pkl", "bad.pth"):
        if protocol == "in an archive":
            torch.save({"a": torch.zeros(1), "b": bomb}, tmp_path / name, pickle_protocol=4)
        else:
            (tmp_path / name).write_bytes(pickle.dumps({"a": [os.name, os.name], "b": bomb}, protocol=protocol))
        code, output = hfgen(tmp_path / name, tmp_path / "made", "--allow_pickle")
        assert code == 2
        assert "no torch file of tensors: it holds posix.mkdir, which is code" in output
        assert not re.search("weights_only|torch.load|Re-running|github|pytorch", output)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"hello world", b"\x80\x04\x95", b"\x80\x04]q\x00.", b"(" * 9, b"\x93."])
def test_what_is_no_pickle_of_tensors(content, tmp_path):
    (tmp_path / "odd.pkl").write_bytes(content)
    code, output = hfgen(tmp_path / "odd.pkl", tmp_path / "made", "--allow_pickle")
    assert code == 2
    assert output == "odd.pkl was refused: it is no torch file of tensors, or a damaged one."


def test_a_refused_archive_that_is_damaged_too(tmp_path):
    """Python's reader of archives raises what is neither a ValueError nor an OSError."""
    torch.save({"a": Bomb("exploded")}, tmp_path / "it.pth", pickle_protocol=4)
    content = (tmp_path / "it.pth").read_bytes()
    (tmp_path / "it.pth").write_bytes(content.replace(b"exploded", b"Exploded"))  # its checksum is another's
    words = "it is no torch file of tensors, or a damaged one"
    refused(words, tmp_path / "it.pth", tmp_path / "made", "--allow_pickle")


def repacked(path, change=lambda archive: None, compression=zipfile.ZIP_STORED):
    """The archive of torch with its entries written anew by Python."""
    with zipfile.ZipFile(HERE / "torchgan" / "generator.pt") as source, zipfile.ZipFile(path, "w", compression) as new:
        for name in source.namelist():
            new.writestr(name, source.read(name))
        change(new)
    return path


def test_an_archive_that_is_larger_inside_is_refused(tmp_path, monkeypatch):
    def twenty_times(archive):
        archive.filelist.extend(archive.filelist * 20)

    cases = {
        "whose entries are compressed": repacked(tmp_path / "a.pth", compression=zipfile.ZIP_DEFLATED),
        "compressed or overlap": repacked(tmp_path / "b.pth", twenty_times),
        "its table of contents is not where torch puts it": repacked(tmp_path / "c.pth"),
    }
    moved = (tmp_path / "c.pth").read_bytes()
    first = moved.index(b"PK\x01\x02")  # of the list of entries, which Python finds 8 bytes further on as well
    (tmp_path / "c.pth").write_bytes(moved[:first] + bytes(8) + moved[first:])
    for words, source in cases.items():
        refused(words, source, tmp_path / "made", "--allow_pickle")
    plain_state_dict = repacked(tmp_path / "d.pth")
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # zip64, as of more than 4 GiB
    large = repacked(tmp_path / "e.pth")
    assert b"PK\x06\x06" in large.read_bytes()
    for path in (plain_state_dict, large):
        assert ForeignFiles(path, "it", allow_pickle=True).networks().keys() == {path.stem}


# --- what is true of all --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    target = tmp_path_factory.mktemp("made") / "gan"
    converted(HERE / "torchgan" / "generator.pt", target)
    return target


def test_the_folder_is_whole(made):
    """Nothing of a pickle, no path; the card tells what it was made of."""
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "model_index.json",
        "generator/config.json",
        "generator/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    card = ModelCard.load(made / "README.md")
    digest = hashlib.sha256((HERE / "torchgan" / "generator.pt").read_bytes()).hexdigest()
    assert f"| generator.pt | `{digest}` |" in card.text
    assert card.data.tags[:2] == ["hfgen", "dcgan"]
    assert 'from_pretrained("gan")' in card.text
    assert str(HERE) not in card.text


def test_it_is_drawn_from_and_pushed(made, tmp_path):
    drawn = command_line.hfgen("sample", made, "-n", "2", "-o", tmp_path / "grid.png")
    assert drawn.code == 0, drawn.err
    pushed = command_line.hfgen("push", made, "org/gan", "--dry_run", "--json")
    assert pushed.code == 0, pushed.err
    assert "README.md" in pushed.out


def test_the_card_tells_how_it_is_used(made):
    text = (made / "README.md").read_text()
    assert "`pip install hfgen`, then\n\n```python" in text
    introduction = text.split("# gan\n\n")[1].split("\n\n## Use")[0].splitlines()
    assert introduction[-1].endswith("under hfgen's names.")
    assert all(len(line) <= 119 for line in introduction)
    for line, following in itertools.pairwise(introduction):
        assert len(f"{line} {following.split()[0]}") > 119


def card_for_the_hub(folder):
    with prepared(folder, Place("org/gan"), None, None, "again", bundle_code=True) as ready:
        content = ready.files["README.md"]
    return content.decode() if isinstance(content, bytes) else content.read_text()


def test_the_card_tells_of_bundled_code(made, tmp_path):
    """Pushed or saved; what somebody has edited stays as it is."""
    folder = tmp_path / "gan"
    shutil.copytree(made, folder)
    readme = folder / "README.md"
    plain_state_dict = readme.read_text()
    assert "trust_remote_code" not in plain_state_dict
    told = card_for_the_hub(folder)
    assert told.count('DiffusionPipeline.from_pretrained("gan", trust_remote_code=True)') == 1
    assert told.count("\n\nWithout hfgen, plain diffusers loads it") == 1
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder, bundle_code=True)
    assert readme.read_text() == told == card_for_the_hub(folder)
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder)
    assert readme.read_text() == plain_state_dict
    edited = plain_state_dict.replace("No quality", "My own words. No quality")
    readme.write_text(edited)
    assert card_for_the_hub(folder) == edited
    HFGenPipeline.from_pretrained(folder).save_pretrained(folder, bundle_code=True)
    assert readme.read_text() == edited


def test_what_is_there_stays(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for target in (made, tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        before = sorted(target.rglob("*"))
        code, output = hfgen(HERE / "torchgan" / "generator.pt", target, "--allow_pickle")
        assert code == 2
        assert "nothing was converted" in output
        with pytest.raises(UsageError, match="nothing was converted"):
            convert.convert(open_source(str(HERE / "torchgan" / "generator.pt"), True), target)
        assert sorted(target.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    converted(HERE / "torchgan" / "generator.pt", tmp_path / "empty")


def test_what_was_saved_is_what_was_read(made):
    pipeline = HFGenPipeline.from_pretrained(made)
    weights = {"generator": dict(pipeline.generator.state_dict())}
    check(made, weights)
    weights["generator"]["to_image.bias"] = weights["generator"]["to_image.bias"] + 1
    with pytest.raises(CheckError, match=r"generator\.to_image\.bias is not saved as it was read"):
        check(made, weights)


def test_all_or_nothing(tmp_path, monkeypatch):
    """A failure after everything was written leaves no trace."""

    def fails(*arguments):
        raise CheckError("not as it was read")

    monkeypatch.setattr(convert, "check", fails)
    source = HERE / "torchgan" / "generator.pt"
    refused("not as it was read", source, tmp_path / "new" / "made", "--allow_pickle", code=3)
    assert not (tmp_path / "new").exists()


def test_every_tensor_finds_its_place(made):
    pipeline = HFGenPipeline.from_pretrained(made)
    tensors = dict(pipeline.generator.state_dict())
    with pytest.raises(UsageError, match="odd: 1 there, nothing here"):
        fill(pipeline, {"generator": {**tensors, "odd": torch.zeros(1)}}, "it")
    del tensors["to_image.bias"]
    with pytest.raises(UsageError, match="to_image.bias: nothing there, 2 here"):
        fill(pipeline, {"generator": tensors}, "it")


def test_which_format(tmp_path):
    generator = HERE / "torchgan" / "generator.pt"
    refused(
        "No format is called 'torchgam'. Did you mean 'torchgan'?", generator, tmp_path / "a", "--format", "torchgam"
    )
    refused("what the format torchgan makes is a dcgan", generator, tmp_path / "a", "--allow_pickle", "--model", "vae")
    refused("is no folder", tmp_path / "missing", tmp_path / "a", code=1)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("")
    refused("it holds notes.txt", tmp_path / "source", tmp_path / "a")
    assert recognize(open_source(str(generator), True)).name == "torchgan"


def test_what_is_local_has_no_revision_and_no_repository(tmp_path):
    source = HERE / "torchgan" / "generator.pt"
    refused("has revisions", source, tmp_path / "a", "--allow_pickle", "--revision", "main")
    for name in ("netG_typo.pth", "out/netG_typo.pth", "netG.safetensors"):
        refused("so the Hub was not asked", name, tmp_path / "a", "--allow_pickle", code=1)


def test_json_is_bounded_and_of_the_folder(tmp_path):
    """Links lead nowhere but from a Hub's snapshot to its blobs."""
    folder = tmp_path / "models--org--old" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (tmp_path / "outside.json").write_text('{"secret": 1}')
    (folder / "out.json").symlink_to(tmp_path / "outside.json")
    (folder / "long.json").write_text(json.dumps({"a": "b" * (1 << 20)}))
    (folder / "deep.json").write_text('{"a": ' + "[" * 60 + "]" * 60 + "}")
    (folder.parents[1] / "blobs").mkdir()
    (folder.parents[1] / "blobs" / "1").write_text('{"a": 1}')
    (folder / "blob.json").symlink_to(Path("../../blobs/1"))
    source = ForeignFiles(folder, "it")
    assert source.json("blob.json") == {"a": 1}
    for name, words in {"out": "link out of the folder", "long": "longer than", "deep": "levels deep"}.items():
        with pytest.raises(LoadError, match=words):
            source.json(f"{name}.json")
    (folder / "out.safetensors").symlink_to(tmp_path / "outside.json")
    with pytest.raises(LoadError, match="link out of the folder"):
        source.content("out.safetensors")


def test_formats_are_entry_points():
    names = [row["name"] for row in json.loads(command_line.hfgen("list", "formats", "--json").out)]
    assert names == ["diffusers", "pythae", "pytorch-dcgan", "studiogan", "torchgan"]
    for entry in installed(CONVERTERS):
        assert entry.load().name == entry.name


THEIRS = """
from hfgen import Converter
class Theirs(Converter):
    name, description = "theirs", "what they save"
    @classmethod
    def recognizes(cls, source): return source.has("theirs.json")
    @classmethod
    def read(cls, source, options, model): raise NotImplementedError
class Impostor(Theirs):
    name = "torchgan"
"""


def test_a_plugins_format(tmp_path, monkeypatch):
    """It is recognized; a broken one hurts only who asks for it; a built-in's name stays the built-in's."""
    names = {"theirs": "theirs:Theirs", "torchgan": "theirs:Impostor", "broken": "theirs:Missing", "odd": "json:loads"}
    install(tmp_path / "site", "their-plugin", names, {"theirs": THEIRS}, group=CONVERTERS)
    (tmp_path / "source").mkdir()
    source = open_source(str(tmp_path / "source"), False)
    with on_path(tmp_path / "site"):
        with pytest.raises(UsageError, match=r"'broken' of their-plugin 1\.0 failed to import: AttributeError"):
            recognize(source)
        (tmp_path / "source" / "theirs.json").write_text("{}")
        assert recognize(source).name == "theirs"
        assert converter_of("torchgan").__module__ == "hfgen_gan.converters"
        with pytest.raises(PluginError, match=r"'odd' of their-plugin 1\.0 is not a Converter"):
            converter_of("odd")
        (tmp_path / "source" / "model_config.json").write_text("{}")
        with pytest.raises(UsageError, match="can be read in several ways: pythae, theirs. Choose one with --format"):
            recognize(source)
        monkeypatch.setenv("HFGEN_PLUGINS", "")
        assert recognize(source).name == "pythae"


TWICE = """
import os, sys, urllib.request
from hfgen.commands.main import main
for label, words in {"plain": [], "allowed": ["--allow_pickle"]}.items():
    urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/case/{label}").close()
    try:
        main(["convert", "org/old", "made", *words])
    except SystemExit as stop:
        print(stop.code)
"""


def test_a_repository(tmp_path):
    """Its pickles are not even fetched before the user allows it; the card tells the commit."""
    saved_by_diffusers(tmp_path / "source", safe_serialization=False)
    command = [sys.executable, "-c", TWICE]
    with HubServer() as server:
        server.add("org/old", tmp_path / "source")
        environment = server.environment(tmp_path / "home")
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        asked = {label: {r.path for r in server.requests_of(label)} for label in ("plain", "allowed")}
    assert done.stdout.split() == ["2", "made", "0"], done.stderr
    assert "diffusion_pytorch_model.bin is a pickle" in done.stderr
    assert not any(path.endswith(".bin") for path in asked["plain"])
    assert any(path.endswith(".bin") for path in asked["allowed"])
    assert re.search(r"from `org/old at commit [0-9a-f]{40}`", (tmp_path / "made" / "README.md").read_text())


def test_wrapped_names():
    tensors = {"module.a": torch.zeros(1), "module.b": torch.zeros(1)}
    assert set(plain_state_dict(tensors, "")) == {"a", "b"}
    assert set(plain_state_dict({**tensors, "c": torch.zeros(1)}, "")) == {"module.a", "module.b", "c"}
