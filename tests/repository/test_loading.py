"""from_pretrained on folders and repositories, in processes that have imported nothing but hfgen."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from plugin_site import TOY, install_toy

from hfgen import HFGenPipeline, PriorScheduler
from hfgen.errors import HFGenError, LoadError, UsageError

CHILD = (Path(__file__).parents[1] / "helpers" / "load_cases.py").read_text(encoding="utf-8")
TOKEN = "hf_of_the_reader"

BOTH = {"generator": "float32", "critic": "float32"}
PLAIN = {"weights": "main", "temperature": 1.0, "dtypes": BOTH}
# label: options, what differs from PLAIN. Each is loaded from the folder and from the repository; a Hub's first load
# comes first.
CASES = {
    "as_saved": ({}, {}),
    "variant": ({"variant": "other"}, {"weights": "other"}),
    "dtype": ({"dtype": "float64"}, {"dtypes": dict.fromkeys(BOTH, "float64")}),
    "dtypes": (
        {"dtype": {"critic": "bfloat16", "default": "float64"}},
        {"dtypes": {"generator": "float64", "critic": "bfloat16"}},
    ),
    "eager": ({"low_cpu_mem_usage": False}, {}),
    "eager_dtype": ({"low_cpu_mem_usage": False, "dtype": "float64"}, {"dtypes": dict.fromkeys(BOTH, "float64")}),
    "device_map": ({"device_map": "cpu"}, {}),
    "scheduler": ({"scheduler": {"latent_shape": [3], "temperature": 0.5}}, {"temperature": 0.5}),
    "no_critic": ({"critic": None}, {"dtypes": {"generator": "float32"}}),
}
# label: repository, options, weights. What only a Hub has.
HUB_CASES = {
    "revision": ("org/toy", {"revision": "v2"}, "other"),
    "private": ("org/private", {"token": TOKEN}, "main"),
    "cached": ("org/toy", {"local_files_only": True}, "main"),
    "cached_revision": ("org/toy", {"revision": "v2", "local_files_only": True}, "other"),
}
# label: repository, options, error, what its message must name.
ERRORS = {
    "no_repository": ("org/nothing", {}, "LoadError", "org/nothing"),
    "no_revision": ("org/toy", {"revision": "v9"}, "LoadError", "org/toy.*v9"),
    "no_token": ("org/secret", {}, "LoadError", "org/secret.*token"),
    "wrong_token": ("org/toy2", {"token": "hf_wrong"}, "LoadError", "org/toy2.*(token|credentials)"),
    "not_cached": ("org/nothing", {"local_files_only": True}, "LoadError", "org/nothing.*cache"),
    "bad_name": ("org/no thing", {}, "LoadError", "org/no thing"),
    "no_index": ("org/empty", {}, "LoadError", r"org/empty.*model_index\.json"),
    "no_plugin": ("org/gone", {}, "PluginError", "org/gone.*GonePipeline.*gone-plugin"),
    "foreign_module": ("org/planted", {}, "LoadError", "org/planted.*planted"),
    "remote_code": ("org/code", {"trust_remote_code": True}, "UsageError", "trust_remote_code"),
    "custom_pipeline": ("org/code", {"custom_pipeline": "pipeline"}, "UsageError", "custom_pipeline"),
    "dropped": ("org/dropped", {}, "LoadError", "org/dropped"),
}


@pytest.fixture(scope="module")
def site(toy_site):
    """Where the family `toy` is installed, here and in the children; and one whose module holds no base class."""
    source = TOY.replace("from diffusers import ConfigMixin, ModelMixin", "import diffusers")
    source = source.replace("(ModelMixin, ConfigMixin)", "(diffusers.ModelMixin, diffusers.ConfigMixin)")
    install_toy(toy_site, "bare", "bare_package.bare", source)
    (toy_site / "planted.py").write_text(TOY)
    return toy_site


@pytest.fixture(scope="module")
def folders(tmp_path_factory, toy_pipelines):
    """What the Hub serves and the disk holds, littered as repositories are."""
    root = tmp_path_factory.mktemp("repositories")
    for name in ("toy", "v2", "code", "gone", "planted", "bare", "empty"):
        toy_pipelines["other" if name == "v2" else "main"].save_pretrained(root / name)
    toy_pipelines["other"].save_pretrained(root / "toy", variant="other")
    litter(root / "toy", root)
    litter(root / "code", root)
    edit_index(root / "code", _class_name=["pipeline", "ToyPipeline"])
    edit_index(
        root / "gone", _class_name="GonePipeline", _hfgen={"pipeline": "GonePipeline", "distribution": "gone-plugin"}
    )
    edit_index(root / "planted", generator=["planted", "ToyGenerator"])
    as_bare = {name: ["bare_package.bare", f"Bare{name.capitalize()}"] for name in ("generator", "critic")}
    edit_index(root / "bare", _class_name="BarePipeline", _hfgen={}, **as_bare)
    (root / "empty" / "model_index.json").unlink()
    return root


def litter(folder, root):
    """Files that must not be fetched, let alone run."""
    code = f"open({str(root / 'code_ran')!r}, 'w')\n"
    for name in ("pipeline.py", "generator/toy_family.py", "generator/modeling_toy.py"):
        (folder / name).write_text(code)
    torch.save({}, folder / "generator" / "diffusion_pytorch_model.bin")
    (folder / "README.md").write_text("A toy.\n")
    (folder / "LICENSE").write_text("Anyone may play.\n")
    checkpoint = folder / "checkpoints" / "checkpoint-2" / "generator"
    shutil.copytree(folder / "generator", checkpoint)


def edit_index(folder, **entries):
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.fixture(scope="module")
def hub(folders):
    with HubServer() as server:
        for name in ("toy", "code", "gone", "planted", "bare", "empty"):
            server.add(f"org/{name}", folders / name)
        server.add("org/toy", folders / "v2", "v2")
        server.add("org/toy2", folders / "v2")
        server.add("org/private", folders / "toy", token=TOKEN)
        server.add("org/secret", folders / "toy", token=TOKEN)
        server.add("org/dropped", folders / "toy", dropped=True)
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def loads(hub, home, folders, site, processes):
    """label -> what came of the load, in one process."""
    cases = [[f"{label}@hub", "org/toy", options] for label, (options, _) in CASES.items()]
    cases += [[f"{label}@folder", str(folders / "toy"), options] for label, (options, _) in CASES.items()]
    cases += [[label, repository, options] for label, (repository, options, *_) in {**HUB_CASES, **ERRORS}.items()]
    cases += [["commit", "org/toy", {"revision": hub.repositories["org/toy"].find("v2")[0]}]]
    cases += [["bare@folder", str(folders / "bare"), {}], ["bare@hub", "org/bare", {}]]
    cases += [["code@folder", str(folders / "code"), {}], ["code@hub", "org/code", {}]]
    return loaded(processes, site, hub.environment(home), cases)


def loaded(processes, site, environment, cases):
    environment = {**environment, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    return json.loads(processes.output(CHILD, environment=environment, text=json.dumps(cases)).splitlines()[-1])


def assert_loaded(facts, pipeline, dtypes=BOTH, temperature=1.0, weights="main"):
    assert "error" not in facts, facts
    assert facts["class"] == ["ToyPipeline", "ToyPipeline"]
    assert facts["dtypes"] == dtypes
    assert facts["devices"] == ["cpu"]
    assert facts["temperature"] == temperature
    scheduler = PriorScheduler([3], temperature=temperature)
    expected = type(pipeline)(pipeline.generator, scheduler)(seeds=[0, 1], output_type="np").images.ravel()
    for pixels in facts["pixels"]:
        np.testing.assert_allclose(pixels, expected, atol=1e-5)


@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("case", CASES)
def test_loads_with_options(loads, toy_pipelines, case, place):
    """Through HFGenPipeline and through the family's own class (checks A and E)."""
    expected = {**PLAIN, **CASES[case][1]}
    assert_loaded(loads[f"{case}@{place}"], toy_pipelines[expected["weights"]], **expected)


@pytest.mark.parametrize("case", HUB_CASES)
def test_loads_what_only_a_hub_has(loads, toy_pipelines, case):
    weights = HUB_CASES[case][2]
    assert_loaded(loads[case], toy_pipelines[weights], weights=weights)


def test_loads_a_commit(loads, toy_pipelines):
    assert_loaded(loads["commit"], toy_pipelines["other"])


@pytest.mark.parametrize("case", ERRORS)
def test_error_names_the_thing(loads, case):
    _, _, error, words = ERRORS[case]
    assert loads[case].get("error") == error, loads[case]
    message = loads[case]["message"]
    assert re.search(words, message, re.DOTALL), message
    assert len(message.splitlines()) <= 6
    assert TOKEN not in message
    assert "hf_wrong" not in message


def test_the_plugin_is_imported_by_the_load(loads):
    """Nobody has imported it before (check B), and no other plugin is."""
    assert "toy_family" in loads["as_saved@hub"]["imported"]
    assert not [name for name in loads["as_saved@hub"]["imported"] if "bare" in name]
    assert "bare_package.bare" in loads["bare@folder"]["imported"]


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_a_component_module_need_not_hold_the_base_classes(loads, place):
    """Check C: `import diffusers; class G(diffusers.ModelMixin)`."""
    facts = loads[f"bare@{place}"]
    assert "error" not in facts, facts
    assert facts["class"] == ["BarePipeline", "BarePipeline"]


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_code_in_the_folder_is_not_run(loads, toy_pipelines, folders, place):
    """Check F: `_class_name` is a pair that names the code file; and component folders hold code too."""
    assert_loaded(loads[f"code@{place}"], toy_pipelines["main"])
    assert not (folders / "code_ran").exists()


def test_a_module_that_a_repository_names_is_not_imported(loads):
    assert "planted" not in loads["foreign_module"]["imported"]


def test_only_readable_files_are_fetched(loads, hub):
    asked = hub.files_asked()
    assert {"model_index.json", "README.md", "generator/config.json"} <= asked
    assert not [name for name in asked if not name.endswith((".json", ".safetensors", "README.md"))]


def test_checkpoints_are_not_fetched(loads, hub):
    """A pushed run folder may hold gigabytes of them."""
    assert not [name for name in hub.files_asked() if name.startswith("checkpoints/")]


def test_another_variant_is_not_fetched(loads, hub):
    asked = [request.path for request in hub.requests_of("as_saved@hub")]
    assert not [path for path in asked if path.endswith(".other.safetensors")]


def test_the_token_goes_with_every_request(loads, hub):
    requests = hub.requests_of("private")
    assert requests
    assert {request.token for request in requests} == {TOKEN}
    assert {request.token for request in hub.requests_of("as_saved@hub")} == {None}


def test_requests_say_who_asks(loads, hub):
    assert all(request.user_agent.startswith("hfgen/") for request in hub.requests_of("as_saved@hub"))


@pytest.mark.parametrize(
    "case", ["cached", "cached_revision", "not_cached", "remote_code", "custom_pipeline", "as_saved@folder"]
)
def test_no_request_is_made(loads, hub, case):
    assert hub.requests_of(case) == []


def test_offline_a_warm_cache_suffices(loads, hub, home, toy_pipelines, site, processes):
    """HF_HUB_OFFLINE=1, while the Hub is up: it is not asked."""
    before = len(hub.requests)
    cases = [["main", "org/toy", {}], ["v2", "org/toy", {"revision": "v2"}], ["nothing", "org/nothing", {}]]
    environment = {**hub.environment(home), "HF_HUB_OFFLINE": "1"}
    offline = loaded(processes, site, environment, cases)
    assert_loaded(offline["main"], toy_pipelines["main"])
    assert_loaded(offline["v2"], toy_pipelines["other"])
    assert offline["nothing"]["error"] == "LoadError"
    assert len(hub.requests) == before


def test_a_given_component_is_taken_as_it_is(folders, toy_pipelines, tmp_path):
    """The very object; its files may be missing."""
    shutil.copytree(folders / "toy", tmp_path / "toy", ignore=shutil.ignore_patterns("generator"))
    other = toy_pipelines["other"]
    loaded = HFGenPipeline.from_pretrained(tmp_path / "toy", generator=other.generator, scheduler=other.scheduler)
    assert loaded.generator is other.generator
    assert loaded.scheduler is other.scheduler
    for name, tensor in toy_pipelines["main"].critic.state_dict().items():
        assert torch.equal(loaded.critic.state_dict()[name], tensor)


def test_loaded_networks_do_not_train(folders):
    """As diffusers' own: BatchNorm in training mode would mix a batch's images."""
    assert not any(model.training for model in HFGenPipeline.from_pretrained(folders / "toy").models().values())


def test_another_class_of_family_is_refused(site, folders):
    from hfgen import registry
    from hfgen.errors import LoadError

    bare = registry.get_family("bare").load()
    with pytest.raises(LoadError, match="This is a ToyPipeline, not a BarePipeline"):
        bare.from_pretrained(folders / "toy")


def test_a_class_that_its_user_has_imported_needs_no_registration(site, tmp_path):
    (site / "own_module.py").write_text(TOY.replace("Toy", "Own"))
    import own_module

    own_module.OwnPipeline.build(4, 1).save_pretrained(tmp_path)
    assert isinstance(own_module.OwnPipeline.from_pretrained(tmp_path), own_module.OwnPipeline)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"revison": "main"}, "takes no 'revison'. Did you mean 'revision'"),
        ({"generatr": None}, "takes no 'generatr'. Did you mean 'generator'"),
        ({"subfolder": "generator"}, "takes no 'subfolder'"),
        ({"generator": None}, "'generator' is None; a ToyPipeline needs it"),
        ({"use_safetensors": False}, "hfgen loads safetensors only"),
    ],
)
def test_keywords_that_diffusers_would_ignore_are_refused(folders, options, words):
    with pytest.raises(UsageError, match=words):
        HFGenPipeline.from_pretrained(folders / "toy", **options)


def test_which_variants_there_are_is_told(folders):
    with pytest.raises(LoadError, match="no weights of the variant 'fp16', only of: other"):
        HFGenPipeline.from_pretrained(folders / "toy", variant="fp16")


def test_what_is_no_number_is_no_picture(folders):
    pipeline = HFGenPipeline.from_pretrained(folders / "toy")
    pipeline.generator.outer.bias.data.fill_(torch.nan)
    with pytest.raises(HFGenError, match="contain NaN or inf"):
        pipeline(seeds=[0])
