"""A family whose network is a transformers `PreTrainedModel`: the laws of every family, and the Auto classes."""

import json
import sys

import plugin_site
import pytest
import torch

from hfgen import HFGenPipeline
from hfgen.errors import LoadError, PluginError, UsageError
from hfgen.registry import get_family
from hfgen.settings.options import signature_of
from hfgen.testing import FamilyTests

SOURCE = plugin_site.TOY_TRANSFORMER


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    """Where the family is installed."""
    folder = tmp_path_factory.mktemp("site")
    plugin_site.install(
        folder,
        "toy-transformer",
        {"toy_transformer": "toy_transformer:ToyTransformerPipeline"},
        {"toy_transformer": SOURCE},
    )
    with plugin_site.on_path(folder):
        yield folder


class TestToyTransformer(FamilyTests):
    family = "toy_transformer"
    sample_size = 8
    in_shards = True

    @pytest.mark.slow  # with Muon it trains so each time
    def test_two_processes_train_what_one_does(self, data, tmp_path):
        super().test_two_processes_train_what_one_does(data, tmp_path)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    pipeline = get_family("toy_transformer").load().build(8, 1, **{"transformer.hidden_size": 4})
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_options_are_those_of_the_config():
    from toy_transformer import ToyTransformer

    options = {"sample_size": int, "in_channels": int, "hidden_size": int, "num_layers": int}
    assert {name: p.annotation for name, p in signature_of(ToyTransformer).items()} == options
    with pytest.raises(UsageError, match=r"hidden_sise.*hidden_size"):
        get_family("toy_transformer").load().build(8, 1, **{"transformer.hidden_sise": 4})
    with pytest.raises(UsageError, match="hidden_size is 'wide'"):
        get_family("toy_transformer").load().build(8, 1, **{"transformer.hidden_size": "wide"})


def test_the_auto_classes_find_it_once_its_plugin_is_loaded(saved, tmp_path):
    from transformers import AutoConfig, AutoModel

    source = SOURCE.replace("hfgen_toy_transformer", "hfgen_late").replace("ToyTransformer", "Late")
    plugin_site.install(tmp_path, "late", {"late": "late:LatePipeline"}, {"late": source})
    config = saved / "transformer" / "config.json"
    config.write_text(config.read_text().replace("hfgen_toy_transformer", "hfgen_late"))
    with plugin_site.on_path(tmp_path):
        with pytest.raises(ValueError, match="does not recognize"):
            AutoConfig.from_pretrained(saved / "transformer")
        get_family("late").load()
        get_family("late").load()
        assert AutoConfig.from_pretrained(saved / "transformer").hidden_size == 4
        model = AutoModel.from_pretrained(saved / "transformer")
    assert type(model).__name__ == "Late"
    expected = HFGenPipeline.from_pretrained(saved).transformer.row.weight
    torch.testing.assert_close(model.row.weight, expected)


def test_a_model_type_that_another_model_has_is_refused(tmp_path):
    """Registering it would make AutoModel load every BERT of this process as the plugin's model."""
    from transformers import AutoConfig

    source = SOURCE.replace('"hfgen_toy_transformer"', '"bert"').replace("ToyTransformer", "Bertish")
    plugin_site.install(tmp_path, "bertish", {"bertish": "bertish:BertishPipeline"}, {"bertish": source})
    refused = pytest.raises(PluginError, match=r"model_type 'bert' is that of transformers\.")
    with plugin_site.on_path(tmp_path), refused:
        get_family("bertish").load()
    assert AutoConfig.for_model("bert").__class__.__module__.startswith("transformers.")


def test_missing_weights_are_found(saved):
    """transformers itself would make them up, and say so in a log."""
    from safetensors.torch import load_file, save_file

    path = saved / "transformer" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("row.weight")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(LoadError, match=r"row\.weight"):
        HFGenPipeline.from_pretrained(saved)
    path.unlink()
    with pytest.raises(LoadError, match="has no weights"):
        HFGenPipeline.from_pretrained(saved)


def test_pickled_weights_beside_it_are_not_read(saved):
    (saved / "transformer" / "model.safetensors").rename(saved / "transformer" / "pytorch_model.bin")
    with pytest.raises(LoadError, match="has no weights"):
        HFGenPipeline.from_pretrained(saved)


def test_options_start_from_a_saved_component(saved):
    from hfgen.settings.options import saved_config

    model = sys.modules["toy_transformer"].ToyTransformer
    assert saved_config(model, str(saved / "transformer"), "transformer") == {"hidden_size": 4, "num_layers": 1}
    with pytest.raises(UsageError, match="no config of a ToyTransformer there"):
        saved_config(model, str(saved / "scheduler"), "transformer")


def test_the_weights_that_are_checked_are_those_that_are_loaded(saved):
    """Of a whole file and shards beside it, transformers reads the file; diffusers would read the shards."""
    from safetensors.torch import load_file, save_file

    whole = saved / "transformer" / "model.safetensors"
    tensors = load_file(whole)
    save_file(tensors, saved / "transformer" / "model-00001-of-00001.safetensors", {"format": "pt"})
    table = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (saved / "transformer" / "model.safetensors.index.json").write_text(json.dumps(table))
    save_file({"row.bias": tensors["row.bias"]}, whole, {"format": "pt"})
    with pytest.raises(LoadError, match="incomplete"):
        HFGenPipeline.from_pretrained(saved)
    whole.unlink()
    loaded = HFGenPipeline.from_pretrained(saved).transformer.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.whole
def test_an_option_by_its_other_name_is_looked_at(saved):
    """`attribute_map` of a config, as GPT-2 has one: the size that counts may stand under either name."""
    config = sys.modules["toy_transformer"].ToyTransformerConfig
    path = saved / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "depth": 500}))
    HFGenPipeline.from_pretrained(saved)  # no option of that name: ignored
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "attribute_map", {"depth": "num_layers"})
        patch.setattr(sys.modules["toy_transformer"].ToyTransformer, "from_pretrained", None)  # it is not built
        with pytest.raises(LoadError, match="5988 of 6003 tensors are missing"):
            HFGenPipeline.from_pretrained(saved)
