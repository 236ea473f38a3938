"""Formats of other libraries: the converted folder computes what the library computes of its checkpoint.

`converted/` holds checkpoints of torchgan and pythae with results of these libraries; `converted/make.py` made them.
The tutorial's networks are in `helpers/foreign_models.py`, and diffusers is installed.
"""

import json
import pickle
import shutil

import diffusers
import pytest
import torch
from foreign_models import (
    CLOSE,
    HERE,
    Bomb,
    TutorialDiscriminator,
    TutorialGenerator,
    bytes_of,
    converted,
    hfgen,
    random,
    refused,
    saved_by_diffusers,
)
from rounding import images_apart
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules import module as hooks

from hfgen import HFGenPipeline
from hfgen_gan.converters import build


@pytest.mark.parametrize(
    "wrap", ["bare", "DataParallel", "in a dictionary", "safetensors", "before BatchNorm counted"]
)
@pytest.mark.whole
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
    refused("give the one to convert", tmp_path / "out", tmp_path / "again", "--allow_pickle")


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


@pytest.mark.whole
def test_what_is_not_the_tutorials_is_named(tmp_path):
    tensors = random(TutorialGenerator()).state_dict()
    discriminator = random(TutorialDiscriminator()).state_dict()
    first = {name: tensors[name] for name in ("main.0.weight", "main.1.weight")}
    cases = {
        "unknown: main.0.bias (6)": {**tensors, "main.0.bias": torch.zeros(6)},
        "missing: main.4.running_mean": {k: t for k, t in tensors.items() if k != "main.4.running_mean"},
        "blocks.1.0.weight: 6x3x3x3 there, 6x3x4x4 here": {**tensors, "main.3.weight": torch.zeros(6, 3, 3, 3)},
        "have 6, 6 channels; a DCGAN's halve": {**tensors, "main.3.weight": torch.zeros(6, 6, 4, 4)},
        "contains NaN or inf": {**tensors, "main.6.weight": torch.full((3, 2, 4, 4), torch.nan)},
        "not an ordinary array": {**tensors, "main.6.weight": torch.zeros(1).expand(3, 2, 4, 4)},
        "holds no generator": random(TutorialDiscriminator()).state_dict(),
        "holds several generators: a, b": {"a": tensors, "b": tensors},
        "unknown: other (2)": {"other": torch.zeros(2), **tensors},
        "unknown: extra.weight (3)": {"D": discriminator | {"extra.weight": torch.zeros(3)}, "G": tensors},
        "it has the tensors other (2), main.0.weight (5x6x4x4)": {"other": torch.zeros(2), **first},
        "does not hold a state dict, but a list": [1, 2],
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
        refused("unknown: extra.weight (3)", tmp_path / "it.pth", tmp_path / "made", "--allow_pickle", *options)


def test_a_small_file_asks_for_no_large_gan(tmp_path):
    """The networks that these kernels claim have some hundred gigabytes; nothing of that is allocated."""
    generator = {"main.0.weight": bytes_of(1, 64, 1, 4096), "main.3.weight": bytes_of(64, 1, 4, 4)}
    generator |= {f"main.1.{part}": bytes_of(64) for part in ("weight", "bias", "running_mean", "running_var")}
    torch.save(generator, tmp_path / "netG.pth")
    words = "not have the architecture of DCGANGenerator. In hfgen's names: generator.blocks.1.0.weight: nothing there"
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


@pytest.mark.parametrize(("file", "options"), [("generator.pt", ()), ("both.pt", ("--generator.activation", "relu"))])
@pytest.mark.whole
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


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.whole
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


@pytest.mark.whole
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


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


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
@pytest.mark.whole
def test_diffusers_pipelines(layout, tmp_path):
    """hfgen's images of the folder, and plain diffusers' of the folder, are those of plain diffusers of the source."""
    sharded = {"safe_serialization": False, "max_shard_size": "50KB"} if layout == "pickled, in shards" else {}
    plain = saved_by_diffusers(tmp_path / "source", **sharded)
    assert (len(list(tmp_path.glob("source/unet/*.bin"))) > 1) == bool(sharded)
    if layout == "first repositories":
        as_the_first_repositories(tmp_path / "source")
    options = [] if layout == "safetensors" else ["--allow_pickle"]
    code, output = hfgen(tmp_path / "source", tmp_path / "made", *options)
    assert code == 0, output
    ours = HFGenPipeline.from_pretrained(tmp_path / "made")(seeds=[0, 1], output_type="np").images
    close = images_apart(plain, images_of)
    assert abs(ours - images_of(plain)).max() < close
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "made")
    again.set_progress_bar_config(disable=True)
    assert abs(images_of(again) - images_of(plain)).max() < close


@pytest.mark.whole
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


@pytest.mark.whole
def test_a_single_autoencoder_is_its_familys(tmp_path):
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2, sample_size=8).eval()
    vae.save_pretrained(tmp_path / "source", safe_serialization=False)
    pipeline = converted(tmp_path / "source", tmp_path / "made")
    latents = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(pipeline.vae.decode(latents).sample, vae.decode(latents).sample, **CLOSE)


@pytest.mark.whole
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
