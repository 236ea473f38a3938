"""AutoencoderKL beside plain diffusers: each reads what the other saves, whole or bare."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from hub_server import HubServer
from safetensors.torch import load_file, save_file

from hfgen import HFGenPipeline, PriorScheduler
from hfgen.errors import LoadError, UsageError
from hfgen.noise import SeededNoise
from hfgen.testing.laws import make_data
from hfgen_vae.autoencoder_kl import AutoencoderKLPipeline
from hfgen_vae.likelihoods import DiscretizedLogisticLikelihood, GaussianLikelihood

TINY = {"vae.block_out_channels": [4, 8], "vae.norm_num_groups": 2}


@pytest.fixture
def pipeline():
    torch.manual_seed(0)
    pipeline = AutoencoderKLPipeline.build(8, 1, **TINY)
    for parameter in pipeline.vae.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return pipeline


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


PLAIN = """
import sys, torch
from diffusers import AutoencoderKL
folder, subfolder, tensors = sys.argv[1], sys.argv[2] or None, torch.load(sys.argv[3], weights_only=True)
vae = AutoencoderKL.from_pretrained(folder, subfolder=subfolder)
with torch.no_grad():
    decoded = vae.decode(tensors["latents"]).sample
    encoded = vae.encode(tensors["images"]).latent_dist.mode()
assert not any(name.partition(".")[0].startswith("hfgen") for name in sys.modules)
torch.save({"decoded": decoded, "encoded": encoded}, sys.argv[3])
"""


def in_plain_diffusers(process, folder, subfolder, pipeline, images, path):
    """What a process without hfgen decodes and encodes, beside what the pipeline does."""
    latents = pipeline.latents(SeededNoise.from_seeds([1, 2, 3]))
    torch.save({"latents": latents, "images": images}, path)
    done = process.run(PLAIN, folder, subfolder, path)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(path, weights_only=True)
    with torch.no_grad():
        return theirs, {"decoded": pipeline.decode(latents), "encoded": pipeline.encode(images)}


def assert_as_plain_diffusers(*arguments):
    theirs, ours = in_plain_diffusers(*arguments)
    for name, tensor in ours.items():
        assert theirs[name].shape == tensor.shape
        assert (theirs[name] - tensor).abs().max() <= 1e-5, name
        assert tensor.std() > 1e-3


def test_plain_diffusers_reads_what_hfgen_saves(processes, pipeline, images, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    assert_as_plain_diffusers(processes, tmp_path / "saved", "vae", pipeline, images, tmp_path / "tensors.pt")


def test_plain_diffusers_reads_a_run(processes, images, tmp_path):
    from hfgen.settings.resolve import resolve
    from hfgen.training import run

    settings = {"dataset_name": str(make_data(tmp_path / "blobs.npz", 8, 1)), "train_batch_size": 4}
    settings |= {"max_train_steps": 2, "num_validation_images": 4, "vae": {"block_out_channels": [4, 8]}}
    config = resolve([("test", settings)], "autoencoder_kl", AutoencoderKLPipeline)
    run.train(config, AutoencoderKLPipeline, tmp_path / "run", say=lambda line: None)
    pipeline = HFGenPipeline.from_pretrained(tmp_path / "run")
    assert (tmp_path / "run" / "samples" / "reconstructions_000002.png").is_file()
    assert json.loads((tmp_path / "run" / "vae" / "config.json").read_text())["scaling_factor"] == 1.0
    assert_as_plain_diffusers(processes, tmp_path / "run", "vae", pipeline, images, tmp_path / "tensors.pt")


@pytest.fixture
def plain():
    """A color model as plain diffusers makes it, with numbers that it would scale latents by."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(
        **blocks, block_out_channels=[4, 8], norm_num_groups=2, sample_size=8, shift_factor=0.5
    ).eval()


@pytest.fixture
def color():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_hfgen_reads_a_bare_model_of_plain_diffusers(processes, plain, color, tmp_path):
    plain.save_pretrained(tmp_path / "bare")
    pipeline = AutoencoderKLPipeline.from_pretrained(tmp_path / "bare")
    assert pipeline.image_shape == (3, 8, 8)
    assert list(pipeline.scheduler.config.latent_shape) == [4, 4, 4]
    assert not pipeline.vae.training
    assert_as_plain_diffusers(processes, tmp_path / "bare", "", pipeline, color, tmp_path / "tensors.pt")
    pipeline.save_pretrained(tmp_path / "again")
    again = HFGenPipeline.from_pretrained(tmp_path / "again")
    assert type(again) is AutoencoderKLPipeline
    assert again(seeds=[1]).images[0].tobytes() == pipeline(seeds=[1]).images[0].tobytes()
    assert str(tmp_path) not in (tmp_path / "again" / "vae" / "config.json").read_text()


@pytest.mark.whole
def test_a_folder_within_a_bare_model_is_not_what_is_looked_at(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    plain.save_pretrained(tmp_path / "vae")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers_per_block": 1000}))
    with pytest.raises(LoadError, match=r": config\.json asks for more than"):
        AutoencoderKLPipeline.from_pretrained(tmp_path)


def test_the_model_in_a_larger_pipelines_folder(processes, plain, color, tmp_path):
    plain.save_pretrained(tmp_path / "large" / "vae")
    (tmp_path / "large" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    pipeline = AutoencoderKLPipeline.from_pretrained(tmp_path / "large", subfolder="vae")
    assert_as_plain_diffusers(processes, tmp_path / "large", "vae", pipeline, color, tmp_path / "tensors.pt")


def test_options_of_a_bare_model(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    options = {"dtype": torch.float64, "likelihood": GaussianLikelihood(sigma=0.1), "sample_size": [16, 8]}
    pipeline = AutoencoderKLPipeline.from_pretrained(tmp_path, **options)
    assert pipeline.vae.dtype == torch.float64
    assert pipeline.likelihood.config.sigma == 0.1
    assert pipeline(seeds=[1], output_type="pt").images.shape == (1, 3, 16, 8)


def test_names_of_older_attention_layers(plain, color, tmp_path):
    """stabilityai/sd-vae-ft-mse has them; diffusers renames them when it loads."""
    plain.save_pretrained(tmp_path)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for ours, theirs in new.items():
        tensors = {name.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}."): t for name, t in tensors.items()}
    assert any(".query." in name for name in tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    pipeline = AutoencoderKLPipeline.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.encode(color), plain.encode(color).latent_dist.mode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "model_index.json"),
        (lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(), "no weights"),
        (lambda folder: pickled(folder), "are pickled.*\n.*\n.*save_pretrained"),
        (lambda folder: cut(folder), "truncated or damaged"),
        (
            lambda folder: without(folder, "decoder.conv_in.weight"),
            "1 of .* missing, such as 'decoder.conv_in.weight'",
        ),
        (lambda folder: renamed(folder, "VQModel"), "class 'VQModel', not an AutoencoderKL"),
        (lambda folder: renamed(folder, ["evil.py", "AutoencoderKL"]), "not an AutoencoderKL"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    ],
)
def test_a_bare_model_that_cannot_be_loaded(plain, tmp_path, damage, message):
    plain.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(LoadError, match=message):
        AutoencoderKLPipeline.from_pretrained(tmp_path)


def pickled(folder):
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")


def cut(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without(folder, name):
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(path).items() if key != name}, path, metadata={"format": "pt"})


def renamed(folder, class_name):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": class_name}))


@pytest.mark.parametrize(
    "options",
    [{"trust_remote_code": True}, {"custom_pipeline": "x"}, {"dtype": "float16"}, {"use_safetensors": False}],
)
def test_options_that_a_bare_model_is_loaded_without(plain, tmp_path, options):
    plain.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=next(iter(options))):
        AutoencoderKLPipeline.from_pretrained(tmp_path, **options)


def test_from_vae_refuses_what_does_not_fit(plain):
    with pytest.raises(UsageError, match="takes an AutoencoderKL"):
        AutoencoderKLPipeline.from_vae(torch.nn.Linear(1, 1))
    with pytest.raises(UsageError, match="DiscretizedLogisticLikelihood needs 6"):
        AutoencoderKLPipeline.from_vae(plain, DiscretizedLogisticLikelihood())
    with pytest.raises(UsageError, match=r"latent_shape is \[3, 4, 4\]"):
        AutoencoderKLPipeline.from_vae(plain, scheduler=PriorScheduler([3, 4, 4]))
    with pytest.raises(UsageError, match="either scheduler or sample_size"):
        AutoencoderKLPipeline.from_vae(plain, scheduler=PriorScheduler([4, 4, 4]), sample_size=8)


HUB = """
import json, sys
import torch
from hfgen_vae.autoencoder_kl import AutoencoderKLPipeline
found = {}
for repository, options in json.loads(sys.argv[1]):
    try:
        pipeline = AutoencoderKLPipeline.from_pretrained(repository, **options)
        with torch.no_grad():
            found[repository] = pipeline.decode(torch.ones(1, 4, 4, 4)).flatten().tolist()
    except Exception as error:
        found[repository] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def test_a_bare_model_of_a_hub(plain, pipeline, tmp_path, processes):
    """A repository of the model alone, a larger pipeline's of which nothing else is fetched, a pickled one, one of
    hfgen."""
    plain.save_pretrained(tmp_path / "bare")
    plain.save_pretrained(tmp_path / "large" / "vae")
    plain.save_pretrained(tmp_path / "large" / "unet")
    plain.save_pretrained(tmp_path / "pickled")
    pickled(tmp_path / "pickled")
    pipeline.save_pretrained(tmp_path / "own")
    cases = [(f"org/{name}", {}) for name in ("bare", "pickled", "own", "none")] + [
        ("org/large", {"subfolder": "vae"})
    ]
    with HubServer() as hub:
        for name in ("bare", "large", "pickled", "own"):
            hub.add(f"org/{name}", tmp_path / name)
        done = processes.run(HUB, json.dumps(cases), environment=hub.environment(tmp_path / "home"))
        asked = hub.files_asked()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    with torch.no_grad():
        decoded = [vae.decode(torch.ones(1, 4, 4, 4)).sample.flatten() for vae in (plain, pipeline.vae)]
    for repository, expected in (("org/bare", decoded[0]), ("org/large", decoded[0]), ("org/own", decoded[1])):
        assert torch.tensor(found[repository]).sub(expected).abs().max() <= 1e-5
    assert "safetensors" in found["org/pickled"]
    assert found["org/pickled"].startswith("LoadError: org/pickled")
    assert found["org/none"].startswith("LoadError")
    assert not any(name.startswith("unet") or name.endswith(".bin") for name in asked)


def test_the_front_door_knows_a_bare_model(tmp_path):
    """`HFGenPipeline.from_pretrained` of plain diffusers' folder; of a model that no family wraps, one error."""
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, in_channels=1, out_channels=1, sample_size=8)
    vae.save_pretrained(tmp_path / "vae")
    found = HFGenPipeline.from_pretrained(tmp_path / "vae")
    assert type(found) is AutoencoderKLPipeline
    assert all(torch.equal(tensor, found.vae.state_dict()[name]) for name, tensor in vae.state_dict().items())
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(LoadError, match="a single UNet2DModel, which no enabled family wraps"):
        HFGenPipeline.from_pretrained(tmp_path / "unet")


def test_a_plain_model_can_be_trained(tmp_path):
    """Which has no beta schedule."""
    from hfgen import Trainer, load_images
    from hfgen.settings.resolve import resolve

    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, in_channels=1, out_channels=1, sample_size=8)
    data = make_data(tmp_path / "blobs.npz", 8, 1)
    settings = {"train_batch_size": 4, "max_train_steps": 1, "checkpointing_steps": 0, "validation_steps": 0}
    arguments = resolve([("test", settings)], "autoencoder_kl", AutoencoderKLPipeline).arguments
    before = vae.decoder.conv_out.weight.clone()
    Trainer(AutoencoderKLPipeline.from_vae(vae), load_images(str(data)), arguments).train()
    assert not torch.equal(vae.decoder.conv_out.weight, before)
