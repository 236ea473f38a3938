"""Components that are loaded instead of built: `--COMPONENT.from_pretrained`, and frozen ones in a training."""

import pytest
import torch
import yaml
from composed import install_composed
from safetensors.torch import load_file

from hfgen import HFGenPipeline, LoadError, Trainer, UsageError, load_images, registry
from hfgen.registry import get_modality
from hfgen.run_folder import read_metrics
from hfgen.settings.resolve import resolve
from hfgen.testing import FamilyTests, make_data
from hfgen.training import run
from hfgen.training.start import build, find_data

IMAGES = get_modality("image")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    with install_composed(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def encoder(site):
    """A folder with an encoder whose statistics are not those of initialization."""
    from toy_composed import ToyEncoder

    torch.manual_seed(7)
    network = ToyEncoder(1, 3)
    network.norm.running_mean.fill_(0.5)
    network.save_pretrained(site / "encoder")
    return site / "encoder"


class TestCodec(FamilyTests):
    family = "codec"
    sample_size = 8
    in_shards = True

    @pytest.fixture(autouse=True)
    def _source(self, encoder):
        type(self).overrides = {"encoder.from_pretrained": str(encoder)}

    @pytest.mark.slow  # the distilled toy, which holds a frozen network too, trains so each time
    def test_two_processes_train_what_one_does(self, data, tmp_path):
        super().test_two_processes_train_what_one_does(data, tmp_path)


@pytest.fixture
def data(tmp_path):
    return str(make_data(tmp_path / "blobs.npz", 8, 1))


def config_of(data, **settings):
    layer = {"dataset_name": data, "train_batch_size": 8, "max_train_steps": 2, "num_validation_images": 4}
    return resolve([("test", {**layer, **settings})], "codec", registry.get_family("codec").load())


def test_the_others_are_built_for_what_was_loaded(encoder):
    """Its shape is that of the source: the decoder and the prior have three channels of latents."""
    pipeline = registry.get_family("codec").load().build(8, 1, **{"encoder.from_pretrained": str(encoder)})
    assert pipeline.decoder.config.latent_dim == 3
    assert list(pipeline.scheduler.config.latent_shape) == [3, 2, 2]
    saved = load_file(encoder / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in pipeline.encoder.state_dict().items())


def test_a_component_of_a_saved_pipeline_is_found_by_its_name(encoder, tmp_path):
    cls = registry.get_family("codec").load()
    cls.build(8, 1, **{"encoder.from_pretrained": str(encoder)}).save_pretrained(tmp_path / "saved")
    for place in ("saved", "saved/encoder"):
        again = cls.build(8, 1, **{"encoder.from_pretrained": str(tmp_path / place)})
        assert again.encoder.norm.running_mean[0] == 0.5
    with pytest.raises(UsageError, match=r"generator.from_pretrained .*no component 'generator'.*write .*/COMPONENT"):
        registry.get_family("one_step").load().build(8, 1, generator={"from_pretrained": str(tmp_path / "saved")})
    other = registry.get_family("one_step").load()
    built = other.build(8, 1, **{"generator.from_pretrained": str(tmp_path / "saved" / "decoder")})
    assert built.generator.config.latent_dim == 3


def test_frozen_means_that_training_leaves_it_alone(encoder, data):
    """No gradient, no optimizer, no EMA, no wrapper, in eval mode: its statistics stay too."""
    config = config_of(data, encoder={"from_pretrained": str(encoder)})
    pipeline = build(config, registry.get_family("codec").load(), find_data(config, IMAGES))
    before = {name: tensor.clone() for name, tensor in pipeline.encoder.state_dict().items()}
    trainer = Trainer(pipeline, load_images(data), config.arguments)
    assert list(trainer.networks.optimizers) == list(trainer.networks.emas) == ["decoder"]
    assert trainer.objective.encoder is pipeline.encoder
    assert not any(p.requires_grad for p in pipeline.encoder.parameters())
    trainer.train()
    assert not pipeline.encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipeline.encoder.state_dict().items())


@pytest.mark.whole
def test_a_run_remembers_where_it_came_from_and_can_be_repeated(encoder, data, tmp_path):
    folder = tmp_path / "run"
    cls = registry.get_family("codec").load()
    run.train(config_of(data, encoder={"from_pretrained": str(encoder)}), cls, folder, say=lambda line: None)
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["encoder"] == {"from_pretrained": str(encoder)}
    card = (folder / "README.md").read_text()
    assert "`encoder` was not trained: it is that of `encoder`." in card
    assert str(encoder) not in card
    again = resolve([("config.yaml", written), ("", {"dataset_name": data})], "codec", cls)
    run.train(again, cls, tmp_path / "again", say=lambda line: None)
    losses = [[line["decoder_loss"] for line in read_metrics(place)] for place in (folder, tmp_path / "again")]
    assert losses[0] == losses[1]
    assert HFGenPipeline.from_pretrained(folder).encoder.norm.running_mean[0] == 0.5


@pytest.mark.whole
def test_resuming_with_another_source_is_refused(encoder, data, tmp_path):
    from toy_composed import ToyEncoder

    cls = registry.get_family("codec").load()
    settings = {"checkpointing_steps": 1, "encoder": {"from_pretrained": str(encoder)}}
    run.train(config_of(data, **settings), cls, tmp_path / "run", say=lambda line: None)
    ToyEncoder(1, 3).save_pretrained(tmp_path / "other")
    settings |= {"encoder": {"from_pretrained": str(tmp_path / "other")}, "resume_from_checkpoint": "latest"}
    with pytest.raises(UsageError, match=r"other weights of --encoder.from_pretrained"):
        run.train(config_of(data, **settings, max_train_steps=3), cls, tmp_path / "run", say=lambda line: None)


def test_a_frozen_component_without_a_source_is_refused_before_training(data, tmp_path):
    with pytest.raises(UsageError, match=r"(?s)encoder is frozen.*--encoder.from_pretrained SOURCE"):
        run.train(config_of(data), registry.get_family("codec").load(), tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_contradicts_a_source_is_refused(encoder, data):
    source = {"from_pretrained": str(encoder)}
    with pytest.raises(UsageError, match="takes all options from its source: leave out --encoder.latent_dim"):
        config_of(data, encoder={**source, "latent_dim": 4})
    with pytest.raises(UsageError, match="PriorScheduler has no weights; --scheduler.from_config"):
        config_of(data, scheduler=source)
    with pytest.raises(UsageError, match=r"encoder.from_pretrained is 3; expected a folder"):
        config_of(data, encoder={"from_pretrained": 3})
    cls = registry.get_family("codec").load()
    with pytest.raises(UsageError, match=r"does not fit these data: it has in_channels 1, not 3"):
        cls.build(8, 3, encoder=source)
    with pytest.raises(UsageError, match="it holds a ToyEncoder, not a ToyDecoder"):
        cls.build(8, 1, decoder=source)
    layers = [("recipe", {"encoder": source}), ("line", {"encoder": {"from_pretrained": None, "latent_dim": 4}})]
    assert resolve(layers, "codec", cls).components == {"encoder": {"latent_dim": 4}}


def test_a_source_is_loaded_as_safely_as_a_model(encoder, tmp_path):
    """A pickle beside the weights is not read, nor one that bears their name."""
    import pickle
    import shutil

    folder = shutil.copytree(encoder, tmp_path / "evil")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(pickle.dumps({"a": torch.zeros(1)}))
    cls = registry.get_family("codec").load()
    with pytest.raises(LoadError, match=r"--encoder.from_pretrained .*evil: .*is a pickle named as safetensors"):
        cls.build(8, 1, **{"encoder.from_pretrained": str(folder)})
    weights.rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(LoadError, match="pickled, and reading a pickle can run code"):
        cls.build(8, 1, **{"encoder.from_pretrained": str(folder)})
    with pytest.raises(LoadError, match=r"--encoder.from_pretrained ./gone: .*is not a folder"):
        cls.build(8, 1, **{"encoder.from_pretrained": "./gone"})
