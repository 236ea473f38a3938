"""Attacks by the folder of a pipeline inside a pipeline; and what a download, a push and a source do with one."""

import re
import resource
import shutil
import sys

import pytest
import torch
from composed import install_composed
from hub_child import HubChild
from hub_server import HubServer
from inner_attacks import INNER_ATTACKS, LOCAL_INNER_ATTACKS
from refusals import refuse

from hfgen import HFGenPipeline, registry
from hfgen.errors import HFGenError
from hfgen.hub.contents import Prepared, changes, check_model, contents, is_variant
from hfgen.repository.model_folder import ModelFolder

MEMORY = 600 << 20  # bytes by which the peak may grow

# Answers with what a load of a repository, or a build from repositories, came to.
CHILD = """
from hfgen import HFGenPipeline, get_family

def answer(asked):
    what, words = asked
    try:
        if what == "load":
            pipeline = HFGenPipeline.from_pretrained(words)
            return {"pixels": pipeline(seeds=[0], output_type="np").images.ravel().tolist()}
        family = get_family(words.pop("family")).load()
        return {"sources": {name: source.name for name, source in family.build(8, 1, **words).sources.items()}}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with install_composed(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def saved(site, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    registry.get_family("codec").load().build(8, 1).save_pretrained(folder / "codec")
    options = {"decoder.from_pretrained": str(folder / "codec"), "prior.family": "one_step"}
    registry.get_family("latent").load().build(8, 1, **options).save_pretrained(folder / "latent")
    return folder / "latent"


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "latent")


@pytest.mark.parametrize("attack", [*INNER_ATTACKS, *LOCAL_INNER_ATTACKS])
def test_a_folder(folder, attack, monkeypatch):
    damage, words = {**INNER_ATTACKS, **LOCAL_INNER_ATTACKS}[attack]
    ran = folder.parent / "ran"
    monkeypatch.syspath_prepend(folder / "prior")
    damage(folder, ran)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if words is None:
        HFGenPipeline.from_pretrained(folder)
    else:
        refuse(folder, words, error=HFGenError)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    assert not ran.exists()
    assert not {"modeling_evil", "pipeline_evil"} & set(sys.modules)


@pytest.fixture(scope="module")
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def child(processes, hub, site, tmp_path_factory):
    child = HubChild(processes, hub, tmp_path_factory.mktemp("home"), CHILD, site)
    yield child
    child.close()


@pytest.mark.parametrize("attack", INNER_ATTACKS)
def test_a_repository(hub, child, saved, attack, tmp_path):
    """The same words; no code is fetched, and of what is refused by its indexes no weights."""
    damage, words = INNER_ATTACKS[attack]
    damage(shutil.copytree(saved, tmp_path / attack), tmp_path / "ran")
    hub.add(f"org/{attack}", tmp_path / attack)
    found = child.ask(["load", f"org/{attack}"])
    fetched = [request.path for request in found["requests"] if "/resolve/" in request.path]
    assert not [path for path in fetched if path.endswith((".py", ".bin"))]
    assert not (tmp_path / "ran").exists()
    if words is None:
        assert "error" not in found
        return
    assert re.search(words, found["error"], re.DOTALL), found["error"]
    assert f"org/{attack}" in found["error"]
    assert len(found["error"].splitlines()) <= 6
    if attack in ("inside_number", "inside_traversal", "inside_bomb", "inside_deep", "too_deep"):
        assert not [path for path in fetched if path.endswith(".safetensors")]


def test_a_download_is_what_is_needed(hub, child, saved, tmp_path):
    """The files of the pipelines inside, and no others; then nothing is fetched again."""
    whole = shutil.copytree(saved, tmp_path / "latent")
    for extra in ("checkpoints/checkpoint-1/unet", "prior/checkpoints", "prior/generator/deeper"):
        (whole / extra).mkdir(parents=True)
        shutil.copy(whole / "prior/generator/diffusion_pytorch_model.safetensors", whole / extra)
    hub.add("org/latent", whole)
    found = child.ask(["load", "org/latent"])
    fetched = {r.path.partition("/resolve/")[2].partition("/")[2] for r in found["requests"] if "/resolve/" in r.path}
    assert fetched == {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    expected = HFGenPipeline.from_pretrained(saved)(seeds=[0], output_type="np").images
    assert found["pixels"] == pytest.approx(expected.ravel().tolist(), abs=1e-6)
    again = child.ask(["load", "org/latent"])
    assert not [r.path for r in again["requests"] if "/resolve/" in r.path and r.method == "GET"]


def test_a_source_on_the_hub_is_remembered_with_its_commit(hub, child, saved):
    """A pipeline, a component of one by its name, and one by another name, each of a revision."""
    hub.add("org/codec", saved.parent / "codec", "v1")
    commit = hub.repositories["org/codec"].find("v1")[0]
    options = {"family": "latent", "decoder.from_pretrained": "org/codec@v1", "prior.family": "one_step"}
    assert child.ask(["build", options])["sources"] == {"decoder": f"org/codec@{commit}"}
    found = child.ask(["build", {"family": "codec", "encoder.from_pretrained": f"org/codec@{commit}"}])
    assert found["sources"] == {"encoder": f"org/codec@{commit}"}
    assert not [r for r in found["requests"] if "scheduler" in r.path]
    found = child.ask(["build", {"family": "one_step", "generator.from_pretrained": "org/codec/decoder@v1"}])
    assert found["sources"] == {"generator": f"org/codec/decoder@{commit}"}
    missing = child.ask(["build", {"family": "codec", "encoder.from_pretrained": "org/codec@v2"}])
    assert "--encoder.from_pretrained org/codec@v2: " in missing["error"]
    assert "no revision 'v2'" in missing["error"]


def test_what_is_published(folder):
    """The files inside; those that a push replaces there, and no other's."""
    check_model(ModelFolder(folder), "")
    files = contents(folder)
    assert "prior/generator/diffusion_pytorch_model.safetensors" in files
    assert not is_variant(folder, "bf16")
    shards = {"prior/generator/diffusion_pytorch_model-00001-of-00002.safetensors", "prior/unet/config.json"}
    others = {"other/unet/diffusion_pytorch_model.safetensors", "prior/README.md", "prior/generator/notes.txt"}
    assert changes(Prepared(files), {*files, *shards, *others})[1] == sorted(shards)
    (folder / "prior" / "generator" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(HFGenError, match=r"no weights in generator/\*.safetensors"):
        check_model(ModelFolder(folder), "")
