"""A pipeline whose components are pipelines: built, trained, moved, saved, loaded, by the laws of every family."""

import json
import shutil

import pytest
import torch
import yaml
from composed import install_composed
from diffusers import DiffusionPipeline
from pages import ROOT, blocks
from refusals import refuse
from safetensors.torch import load_file
from torch import nn

from hfgen import HFGenPipeline, LoadError, PluginError, Trainer, TrainingArguments, UsageError, load_images, registry
from hfgen.commands.info import family_facts, pipeline_facts
from hfgen.components import components, copied_with, networks
from hfgen.settings.resolve import resolve
from hfgen.testing import FamilyTests, make_data
from hfgen.training import run

PRIOR = {"prior.family": "one_step", "prior.generator.width": 4}


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    with install_composed(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def codec(site):
    """A folder with a decoder, as a training of it would leave it."""
    torch.manual_seed(3)
    registry.get_family("codec").load().build(8, 1, **{"encoder.latent_dim": 3}).save_pretrained(site / "codec")
    return site / "codec"


class TestLatent(FamilyTests):
    family = "latent"
    sample_size = 8
    in_shards = True
    expected_failures = {"test_bundled_code_draws_the_same": "plain diffusers cannot load code of a pipeline inside"}

    @pytest.fixture(autouse=True)
    def _source(self, codec):
        type(self).overrides = {"decoder.from_pretrained": str(codec), **PRIOR}


@pytest.fixture
def latent(codec):
    torch.manual_seed(0)
    return registry.get_family("latent").load().build(8, 1, **{"decoder.from_pretrained": str(codec)}, **PRIOR)


@pytest.fixture
def data(tmp_path):
    return str(make_data(tmp_path / "blobs.npz", 8, 1))


NAMES = ["decoder.encoder", "decoder.decoder", "prior.generator"]


def test_it_is_built_for_what_is_inside(latent):
    """Of the decoder's latents, (3, 2, 2); names are dotted."""
    assert sorted(latent.models()) == sorted(NAMES)
    assert latent.prior.generator.config.out_channels == 3
    assert latent.prior.generator.config.width == 4
    assert set(components(latent)) == {*NAMES, "decoder.scheduler", "prior.scheduler"}


def test_a_family_is_needed_where_any_is_taken(codec):
    cls = registry.get_family("latent").load()
    with pytest.raises(UsageError, match=r"(?s)'prior' is a pipeline of any family.*--prior.family.*from_pretrained"):
        cls.build(8, 1, **{"decoder.from_pretrained": str(codec)})
    with pytest.raises(UsageError, match=r"--prior: .*wide"):
        cls.build(8, 1, **{"decoder.from_pretrained": str(codec), **PRIOR, "prior.generator.wide": 4})
    with pytest.raises(PluginError, match="'one_stop'. Did you mean 'one_step'"):
        cls.build(8, 1, **{"decoder.from_pretrained": str(codec), "prior.family": "one_stop"})


def test_it_moves_with_what_is_inside(latent):
    """diffusers' own `to` leaves it behind."""
    plain = DiffusionPipeline.to(latent, torch.float64)
    assert plain.prior.generator.dtype == torch.float32
    assert {model.dtype for model in latent.to(torch.float64).models().values()} == {torch.float64}
    assert latent.dtype == torch.float64
    assert latent.to("meta").device.type == latent._execution_device.type == "meta"


def test_it_offloads_what_is_inside(latent):
    """By hooks, which go again."""
    for inner in (latent.prior, latent.decoder):
        type(inner).model_cpu_offload_seq = "generator"
    try:
        latent.enable_model_cpu_offload(device="cpu")
        assert all(hasattr(model, "_hf_hook") for model in latent.models().values())
        assert latent(seeds=[0], output_type="pt").images.shape == (1, 1, 8, 8)
        latent.remove_all_hooks()
        assert not any(hasattr(model, "_hf_hook") for model in latent.models().values())
        latent.enable_sequential_cpu_offload(device="cpu")
        assert all(hasattr(model.get_submodule("outer"), "_hf_hook") for model in [latent.prior.generator])
    finally:
        for inner in (latent.prior, latent.decoder):
            type(inner).model_cpu_offload_seq = None


def test_pipelines_are_three_deep_at_most(latent):
    """A pipeline inside itself is endlessly deep."""
    cls = type(latent)
    deep = cls(decoder=latent, prior=latent.prior)
    assert "decoder.decoder.encoder" in deep.models()
    with pytest.raises(UsageError, match="pipelines may be 3 deep"):
        cls(decoder=deep, prior=latent.prior)
    deep.prior = deep
    with pytest.raises(UsageError, match="or inside itself"):
        deep.models()


class Chained(HFGenPipeline):
    """One that its annotation puts into itself."""

    def __init__(self, inner: "Chained") -> None:
        super().__init__()


def test_a_family_inside_itself_is_refused():
    with pytest.raises(UsageError, match="may be 3 deep"):
        Chained.build(8, 1)


@pytest.mark.whole
def test_saved_folders_are_diffusers_own(latent, tmp_path):
    """The inner folder is a model by itself, and the saved and loaded model draws the same."""
    latent.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())["prior"] == [
        "toy_composed",
        "OneStepPipeline",
    ]
    again = HFGenPipeline.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(*[p(seeds=[1], output_type="pt").images for p in (latent, again)])
    assert type(HFGenPipeline.from_pretrained(tmp_path / "saved" / "prior")).__name__ == "OneStepPipeline"
    assert not any(model.training for model in again.models().values())
    mixed = {"default": torch.float64, "prior": torch.bfloat16, "decoder.encoder": torch.float16}
    loaded = HFGenPipeline.from_pretrained(tmp_path / "saved", dtype=mixed).models()
    assert [loaded[name].dtype for name in NAMES] == [torch.float16, torch.float64, torch.bfloat16]
    given = HFGenPipeline.from_pretrained(tmp_path / "saved", prior=latent.prior)
    assert given.prior is latent.prior
    with pytest.raises(UsageError, match="'prior' is a ToyDecoder; it must be a HFGenPipeline"):
        HFGenPipeline.from_pretrained(tmp_path / "saved", prior=latent.prior.generator)
    with pytest.raises(UsageError, match="'balanced' cannot place"):
        HFGenPipeline.from_pretrained(tmp_path / "saved", device_map="balanced")
    with pytest.raises(UsageError, match=r"'decoder' is a pipeline, whose code cannot be bundled"):
        latent.save_pretrained(tmp_path / "bundled", bundle_code=True)


def test_variants_and_shards_are_saved_inside_too(latent, tmp_path):
    """A variant joins the files that are there, in the folders of pipelines inside too."""
    latent.save_pretrained(tmp_path / "saved", max_shard_size=256)
    shards = list((tmp_path / "saved" / "prior" / "generator").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    latent.to(torch.bfloat16).save_pretrained(tmp_path / "saved", variant="bf16")
    files = {path.name for path in (tmp_path / "saved" / "prior" / "generator").glob("*.safetensors")}
    assert files == {*(path.name for path in shards), "diffusion_pytorch_model.bf16.safetensors"}
    HFGenPipeline.from_pretrained(tmp_path / "saved")
    rounded = HFGenPipeline.from_pretrained(tmp_path / "saved", variant="bf16").models()
    assert all(
        torch.equal(rounded[name].outer.weight, latent.models()[name].outer.weight.float()) for name in NAMES[1:]
    )
    with pytest.raises(LoadError, match="no weights of the variant 'fp16', only of: bf16"):
        HFGenPipeline.from_pretrained(tmp_path / "saved", variant="fp16")


@pytest.mark.whole
def test_a_run_names_what_is_inside_and_can_be_repeated(codec, data, tmp_path):
    settings = {"dataset_name": data, "train_batch_size": 8, "max_train_steps": 2, "num_validation_images": 4}
    settings |= {"decoder": {"from_pretrained": str(codec)}, "prior": {"family": "one_step", "generator.width": 4}}
    cls = registry.get_family("latent").load()
    run.train(resolve([("", settings)], "latent", cls), cls, tmp_path / "run", say=lambda line: None)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| prior.generator | `ToyDecoder` |" in card
    assert "`prior` is a pipeline of the family `one_step`." in card
    assert "`decoder` was not trained: it is that of `codec`." in card
    assert "prior.generator" in pipeline_facts(str(tmp_path / "run"))["components"]
    assert family_facts("latent")["components"]["prior"]["class"] == "HFGenPipeline"
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["decoder"] == {"from_pretrained": str(codec)}
    assert written["prior"]["family"] == "one_step"
    assert written["prior"]["generator"]["width"] == 4
    again = resolve([("", written), ("", {"dataset_name": data})], "latent", cls)
    run.train(again, cls, tmp_path / "again", say=lambda line: None)
    place = "prior/generator/diffusion_pytorch_model.safetensors"
    one, two = (load_file(tmp_path / name / place) for name in ("run", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    further = {**settings, "pretrained_model_name_or_path": str(tmp_path / "run")}
    del further["decoder"]
    run.train(resolve([("", further)], "latent", cls), cls, tmp_path / "further", say=lambda line: None)
    further["prior"] = {"family": "one_step", "generator.width": 5}
    with pytest.raises(UsageError, match=r"--prior.generator.width is 5, not 4"):
        run.train(resolve([("", further)], "latent", cls), cls, tmp_path / "refused", say=lambda line: None)


def test_a_source_of_other_images_is_refused(codec, tmp_path):
    data = str(make_data(tmp_path / "large.npz", 16, 1))
    settings = {"dataset_name": data, "decoder": {"from_pretrained": str(codec)}, "prior": "one_step"}
    settings["train_batch_size"] = 8
    cls = registry.get_family("latent").load()
    with pytest.raises(UsageError, match=r"--decoder.from_pretrained .*makes images of 1 channel and 8 pixels"):
        run.train(resolve([("", settings)], "latent", cls), cls, tmp_path / "run", say=lambda line: None)


def test_a_copy_leaves_the_pipeline_as_it_is(latent):
    other = nn.Identity()
    copied = copied_with(latent.prior, {"generator": other})
    assert copied.generator is other
    assert copied.components["generator"] is other
    assert latent.prior.generator is not other
    assert networks(latent)["prior.generator"] is latent.prior.generator


def test_an_index_that_contradicts_the_one_above_is_refused(latent, tmp_path):
    latent.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved" / "prior")
    shutil.copytree(tmp_path / "saved" / "decoder", tmp_path / "saved" / "prior")
    refuse(tmp_path / "saved", "prior: It is a CodecPipeline; the index above says OneStepPipeline")


def test_a_diffusion_over_an_autoencoders_latents(data, tmp_path):
    """The built-in families, in the pipeline of docs/plugins.md: trained, saved, and loaded as the class it is."""
    names = {}
    (block,) = [text for text in blocks(ROOT / "docs" / "plugins.md", "python") if "class LatentPipeline" in text]
    exec(f"from collections.abc import Iterator\nfrom hfgen import *\n{block}", names)
    cls, small = names["LatentPipeline"], {"block_out_channels": [4, 4, 4], "norm_num_groups": 2}
    vae = registry.get_family("autoencoder_kl").load().build(8, 1, vae=small)
    vae.save_pretrained(tmp_path / "vae")
    unet = {"block_out_channels": [4], "norm_num_groups": 2, "layers_per_block": 1, "attention_head_dim": 2}
    unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    options = {"decoder": {"from_pretrained": str(tmp_path / "vae")}, "prior": {"family": "ddpm", "unet": unet}}
    pipeline = cls.build(8, 1, **options)
    arguments = TrainingArguments(train_batch_size=4, max_train_steps=2, num_inference_steps=10)
    Trainer(pipeline, load_images(data), arguments).train()
    assert pipeline.prior.unet.config.in_channels == 4
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = cls.from_pretrained(tmp_path / "saved")
    drawn = [p(seeds=[0], num_inference_steps=10, output_type="pt").images for p in (pipeline, loaded)]
    torch.testing.assert_close(*drawn)
    assert set(loaded.models()) == {"decoder.vae", "decoder.likelihood", "prior.unet"}
