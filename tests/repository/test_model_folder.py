"""Loading reads each file of a folder once; what was checked is handed on instead of a path."""

import collections
import shutil
import sys

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from plugin_site import toy_installed

from hfgen import HFGenPipeline, ModelFolder, UsageError, load_model
from hfgen.errors import LoadError
from hfgen.repository import index, weights
from hfgen.repository.fit import check_config

COMMIT = "c" * 40


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    with toy_installed(site):
        sys.modules["toy_family"].ToyPipeline.build(4, 1).save_pretrained(site / "toy")
        yield site / "toy"


@pytest.fixture
def reads(monkeypatch):
    """File name -> how often hfgen has read it; and `diffusers`, how often that has read the index."""
    counts = collections.Counter()

    def counted(name, function):
        def call(path, *args, **kwargs):
            counts[name or f"{path.parent.name}/{path.name}"] += 1
            return function(path, *args, **kwargs)

        return call

    monkeypatch.setattr(index, "read_json", counted("model_index.json", index.read_json))
    monkeypatch.setattr(weights, "safe_open", counted(None, weights.safe_open))
    theirs = DiffusionPipeline._dict_from_json_file
    monkeypatch.setattr(DiffusionPipeline, "_dict_from_json_file", staticmethod(counted("diffusers", theirs)))
    return counts


ONCE = {
    "model_index.json": 1,
    "diffusers": 1,
    "generator/diffusion_pytorch_model.safetensors": 1,
    "critic/diffusion_pytorch_model.safetensors": 1,
}


def test_a_folder_is_read_once(toy, reads):
    HFGenPipeline.from_pretrained(toy)
    assert reads == ONCE


def test_a_repository_is_read_once(toy, reads, tmp_path):
    """From the cache, where hfgen looks for what the index names before it loads that."""
    storage = tmp_path / "models--org--toy"
    shutil.copytree(toy, storage / "snapshots" / COMMIT)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    HFGenPipeline.from_pretrained("org/toy", cache_dir=tmp_path, local_files_only=True)
    assert reads == ONCE


def test_its_parts(toy):
    folder = ModelFolder(toy, "org/toy")
    assert folder.single is None
    assert not folder.is_single
    assert folder.components["generator"] == ("toy_family", "ToyGenerator")
    assert folder.place("generator") == toy / "generator"
    pipeline = HFGenPipeline.from_pretrained(folder)
    expected = {name: tuple(tensor.shape) for name, tensor in pipeline.generator.state_dict().items()}
    assert folder.shapes("generator", type(pipeline.generator)) == expected


def test_errors_begin_with_the_name_that_the_user_gave(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "toy")
    (tmp_path / "toy" / "critic" / "config.json").unlink()
    with pytest.raises(LoadError, match="^org/toy: The component 'critic' is incomplete"):
        HFGenPipeline.from_pretrained(ModelFolder(tmp_path / "toy", "org/toy"))
    with pytest.raises(LoadError, match="^org/toy cannot be loaded: odd$"), ModelFolder(toy, "org/toy").clear_errors():
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("odd")
    assert torch.get_default_dtype() == torch.float32


def test_a_single_model(tmp_path):
    """Also beside a folder of the name under which a pipeline would hold it."""
    model = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, in_channels=1, out_channels=1)
    for place in (tmp_path, tmp_path / "model"):
        model.save_pretrained(place)
    folder = ModelFolder(tmp_path)
    assert folder.single == "AutoencoderKL"
    assert folder.is_single
    assert folder.place("model") == tmp_path
    loaded = load_model(folder, AutoencoderKL, dtype=torch.float64, revision="main")
    assert not loaded.training
    assert all(torch.equal(tensor.float(), model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(UsageError, match="cannot be loaded with the option 'trust_remote_code'"):
        load_model(folder, AutoencoderKL, trust_remote_code=True)


def test_a_single_models_config_may_not_be_a_link_out(tmp_path):
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").rename(tmp_path / "config.json")
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(LoadError, match="config.json is a link out of the folder"):
        load_model(ModelFolder(tmp_path / "model"), AutoencoderKL)


def test_the_size_of_a_sound_is_its_length():
    check_config({"_class_name": "UNet1DModel", "sample_size": 65536}, "unet/config.json")
    with pytest.raises(LoadError, match="sample_size is 65536, in pixels"):
        check_config({"_class_name": "UNet2DModel", "sample_size": 65536}, "unet/config.json")
