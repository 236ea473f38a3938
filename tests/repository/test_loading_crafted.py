"""An index selects among installed classes, whatever it says: none is imported, run or loaded because of it."""

import json
import os
import shutil
import sys

import pytest
from plugin_site import TOY, install, on_path, toy_installed
from refusals import edit, refuse

from hfgen import HFGenPipeline
from hfgen.errors import PluginError, UsageError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    with toy_installed(tmp_path_factory.mktemp("site")) as toy:
        folder = tmp_path_factory.mktemp("saved")
        toy.ToyPipeline.build(4, 1).save_pretrained(folder)
        yield folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "toy")


@pytest.mark.parametrize("value", [None, 1, {"a": 1}, [], ["ToyPipeline"], ["a", "b", "c"], ["ToyPipeline", 1]])
def test_class_name_of_another_type(folder, value):
    edit(folder / "model_index.json", _class_name=value)
    refuse(folder, "names no pipeline class")


def test_class_name_as_a_pair_of_strings_only(folder):
    edit(folder / "model_index.json", _class_name=[1, "ToyPipeline"])
    refuse(folder, "names no pipeline class")


@pytest.mark.parametrize("value", [None, [], "toy", 3])
def test_provenance_of_another_type(folder, value):
    edit(folder / "model_index.json", _hfgen=value)
    refuse(folder, "'_hfgen'")


@pytest.mark.parametrize(
    "name", ["GonePipeline", "os", "DiffusionPipeline", "toy_family:ToyPipeline", "", "HFGenError"]
)
def test_unknown_pipeline_class(folder, name):
    edit(folder / "model_index.json", _class_name=name, _hfgen={})
    refuse(folder, f"No installed family provides the pipeline class {name!r}", error=PluginError)


def test_the_base_class_is_no_family(folder):
    edit(folder / "model_index.json", _class_name="HFGenPipeline", _hfgen={})
    refuse(folder, "No installed family provides the pipeline class 'HFGenPipeline'", error=PluginError)


def test_a_disabled_plugin_is_not_there(folder, monkeypatch):
    monkeypatch.setenv("HFGEN_PLUGINS", "")
    refuse(folder, "ToyPipeline.*'toy-plugin'", error=PluginError)


def test_a_broken_plugin_is_named(folder, tmp_path):
    install(
        tmp_path / "site", "Broken.Toys", {"broken": "broken_toys:BrokenPipeline"}, {"broken_toys": "1 / 0"}, "3.2"
    )
    edit(folder / "model_index.json", _hfgen={"pipeline": "BrokenPipeline"})
    with on_path(tmp_path / "site"):
        error = refuse(folder, "'broken' of broken-toys 3.2 .*ZeroDivisionError", error=PluginError)
    assert isinstance(error.__cause__, ZeroDivisionError)


MIXED = [[None, "ToyGenerator"], ["toy_family", None], ["toy_family", 1], [1, "ToyGenerator"], [True, "x"]]
MIXED += [["toy_family"], ["toy_family", "ToyGenerator", "x"]]
NO_PAIRS = [None, 1, "x", {}, {"toy_family": "ToyGenerator"}, [], [1, 2], [["toy_family"], ["ToyGenerator"]]]


@pytest.mark.parametrize("value", [*MIXED, *NO_PAIRS], ids=repr)
def test_entry_of_another_shape(folder, value):
    """diffusers#13446: crafted entries ran code of the Hub without consent."""
    edit(folder / "model_index.json", generator=value)
    refuse(folder, "'generator' is not a component")


@pytest.mark.parametrize("value", MIXED, ids=repr)
def test_entry_of_mixed_types_that_is_no_component(folder, value):
    edit(folder / "model_index.json", extra=value)
    refuse(folder, "'extra' is not a component")


@pytest.mark.parametrize("name", ["generator", "scheduler"])
def test_entry_missing(folder, name):
    for value in ([None, None], None):
        index = json.loads((folder / "model_index.json").read_text())
        del index[name]
        (folder / "model_index.json").write_text(json.dumps(index | ({name: value} if value else {})))
        refuse(folder, f"expected .*'{name}'.* but only")


def test_hfgen_says_which_class_where_the_index_names_another(folder):
    """A folder that plain diffusers reads bears the name of diffusers' class."""
    edit(folder / "model_index.json", _class_name="DDPMPipeline")
    assert type(HFGenPipeline.from_pretrained(folder)).__name__ == "ToyPipeline"


def test_unknown_component_class(folder):
    for name in ("Gone", "torch", "ToyPipeline", "__doc__"):
        edit(folder / "model_index.json", generator=["toy_family", name])
        refuse(folder, f"names the component class '{name}' of 'toy_family', which does not exist")


def test_a_base_class_is_no_component(folder):
    edit(folder / "model_index.json", generator=["toy_family", "ModelMixin"])
    refuse(folder, "names the component class 'ModelMixin'")


@pytest.mark.parametrize(
    "library", ["os", "subprocess", "torch.nn", "hfgen.pipeline", "", "toy_family.x", "modeling_toy"]
)
def test_module_of_no_plugin(folder, library):
    """Imported or not."""
    edit(folder / "model_index.json", generator=[library, "ToyGenerator"])
    refuse(folder, f"come from '{library}', which no enabled family provides")


@pytest.mark.parametrize("entry", ["generator", "extra"])
def test_a_named_module_is_never_imported(folder, tmp_path, monkeypatch, entry):
    (tmp_path / "planted.py").write_text("import os\nos.environ['PLANTED'] = 'ran'\n" + TOY)
    monkeypatch.syspath_prepend(tmp_path)
    edit(folder / "model_index.json", **{entry: ["planted", "ToyGenerator"]})
    refuse(folder, "'planted'")
    assert "planted" not in sys.modules
    assert "PLANTED" not in os.environ


@pytest.mark.parametrize("name", ["os:system", "DiffusionPipeline", "component_class", "toy_family:ToyGenerator"])
def test_the_redirect_cannot_be_named(folder, name):
    """`hfgen.repository.components` is where diffusers is sent to; a repository cannot send it there."""
    edit(folder / "model_index.json", generator=["hfgen.repository.components", name])
    (folder / "generator" / "scheduler_config.json").write_text("{}")
    refuse(folder, "'hfgen.repository.components', which no enabled family provides")


@pytest.mark.parametrize("option", ["trust_remote_code", "custom_pipeline"])
def test_code_of_a_repository_is_refused(folder, option):
    with pytest.raises(UsageError, match=option):
        HFGenPipeline.from_pretrained(folder, **{option: True})
    assert HFGenPipeline.from_pretrained(folder, **{option: None})


@pytest.mark.parametrize("name", ["None.py", "generator/hfgen.repository.components.py"])
def test_a_file_that_diffusers_would_run_is_not(folder, name, monkeypatch):
    """It looks for `<custom_pipeline>.py` and `<component>/<library>.py`."""
    (folder / name).write_text("import os\nos.environ['PLANTED'] = 'ran'\n")
    refuse(folder, "contains custom code")
    assert "PLANTED" not in os.environ


def test_a_component_of_another_role_is_refused(folder):
    edit(folder / "model_index.json", generator=["toy_family", "ToyCritic"])
    refuse(folder, "The component 'generator' is a ToyCritic; it must be a ToyGenerator")


@pytest.mark.parametrize("name", ["evil.bin", "../outside.safetensors", "/etc/outside.safetensors"])
def test_a_shard_index_names_safetensors_beside_it_only(folder, name):
    """Also where a decoy index beside it names the real file."""
    real = "diffusion_pytorch_model.safetensors"
    for file, named in (("a.safetensors.index.json", real), (f"{real}.index.json", name)):
        index = {"metadata": {"total_size": 1}, "weight_map": {"inner.weight": named}}
        (folder / "generator" / file).write_text(json.dumps(index))
    refuse(folder, "files that are not safetensors")
