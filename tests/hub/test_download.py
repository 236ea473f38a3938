"""Downloads by the real client from a stand-in for the Hub: what is asked for, what is sent, and what goes wrong."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_child import HubChild
from hub_server import READER, TOKEN, HubServer

# Loads without waiting between tries: {"target", "options", "offline"} -> what came of it.
CHILD = """
import time
time.sleep = lambda seconds: None
import huggingface_hub
from hfgen import HFGenPipeline, PriorScheduler
from hfgen.hub import download as fetching

fetching.TIMEOUT = 0.5
huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = 5

def load(asked):
    huggingface_hub.constants.HF_HUB_OFFLINE = asked["offline"]
    options = asked["options"]
    if "scheduler" in options:
        options["scheduler"] = PriorScheduler([3])
    if "only" in options:
        return {"path": huggingface_hub.hf_hub_download(asked["target"], options.pop("only"), **options)}
    if "api" in options:
        api = huggingface_hub.HfApi(token=options["token"])
        return {"answer": str(getattr(api, options["api"])(**options["words"]))}
    if "folder" in options:
        return {"path": str(fetching.download(asked["target"], **options["folder"]))}
    pipeline = HFGenPipeline.from_pretrained(asked["target"], **options)
    return {"pixels": pipeline(seeds=[0], output_type="np").images.ravel().tolist()}

def answer(asked):
    try:
        return load(asked)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
"""
WEIGHTS = "diffusion_pytorch_model.safetensors"
OWN = [f"{part}/{file}" for part in ("generator", "critic") for file in ("config.json", WEIGHTS)]
ALL = {"model_index.json", "README.md", "scheduler/scheduler_config.json", *OWN}


@pytest.fixture(scope="module")
def folders(toy_pipelines, tmp_path_factory):
    """`toy`, with a variant of the generator alone and with what nobody needs; `other`, in shards."""
    root = tmp_path_factory.mktemp("repositories")
    toy_pipelines["main"].save_pretrained(root / "toy")
    toy_pipelines["other"].generator.save_pretrained(root / "toy" / "generator", variant="ema")
    (root / "toy" / "README.md").write_text("A toy.\n")
    for name in (
        "pipeline.py",
        "generator/modeling_toy.py",
        "config.yaml",
        "metrics.jsonl",
        "samples/step_000001.png",
    ):
        (root / "toy" / name).parent.mkdir(exist_ok=True)
        (root / "toy" / name).write_text("nobody needs this\n")
    torch.save({}, root / "toy" / "generator" / "diffusion_pytorch_model.bin")
    for name in (
        "generator/adapter.safetensors",
        "checkpoints/checkpoint-1/generator/config.json",
        "other/config.json",
    ):
        (root / "toy" / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(
            root / "toy" / "generator" / ("config.json" if name.endswith(".json") else WEIGHTS), root / "toy" / name
        )
    toy_pipelines["other"].save_pretrained(root / "other", max_shard_size=64)
    return root


@pytest.fixture(scope="module")
def hub(folders):
    with HubServer() as server:
        server.add("org/toy", folders / "toy", lfs={f"{part}/{WEIGHTS}" for part in ("generator", "critic")})
        server.add("org/toy", folders / "other", "v2")
        server.add("org/private", folders / "toy", token=TOKEN, lfs={f"generator/{WEIGHTS}"})
        server.add("org/gated", folders / "toy", token=TOKEN, gated=True)
        yield server


class Loader(HubChild):
    """`from_pretrained` in the child, with the requests that it made."""

    def __call__(self, target="org/toy", offline=False, **options):
        asked = {"target": target, "options": {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}}
        found = self.ask({**asked, "offline": offline})
        found["files"] = {r.path.split("/", 5)[5] for r in found["requests"] if "/resolve/" in r.path}
        message = found.get("message", "")
        assert len(message.splitlines()) <= 6
        assert TOKEN not in message
        assert READER not in message
        return found


@pytest.fixture(scope="module")
def load(hub, toy_site, tmp_path_factory, processes):
    loader = Loader(processes, hub, tmp_path_factory.mktemp("home"), CHILD, toy_site)
    yield loader
    loader.close()


@pytest.fixture
def cold(tmp_path):
    """A cache with nothing in it."""
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def warm(load, tmp_path_factory):
    """A cache with org/toy in it."""
    cache = tmp_path_factory.mktemp("warm")
    load(cache_dir=cache)
    return cache


@pytest.fixture
def loads(toy_pipelines):
    """Asserts that what was loaded draws what these weights draw."""

    def check(found, weights="main"):
        assert "error" not in found, found
        expected = toy_pipelines[weights](seeds=[0], output_type="np").images.ravel()
        np.testing.assert_allclose(found["pixels"], expected, atol=1e-5)

    return check


# --- what is asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "files", "weights"),
    [
        ({}, ALL, "main"),
        ({"variant": "ema"}, ALL - {OWN[1]} | {"generator/diffusion_pytorch_model.ema.safetensors"}, "other"),
        ({"critic": None}, ALL - set(OWN[2:]), "main"),
        ({"critic": None, "scheduler": "given"}, {"model_index.json", "README.md", *OWN[:2]}, "main"),
    ],
)
def test_only_what_is_needed_is_fetched(load, loads, cold, options, files, weights):
    found = load(cache_dir=cold, **options)
    loads(found, weights)
    assert found["files"] == files


def test_shards_are_fetched(load, loads, cold):
    found = load(revision="v2", cache_dir=cold)
    loads(found, "other")
    assert len([name for name in found["files"] if name.startswith("generator/diffusion_pytorch_model-0")]) > 1


def test_of_a_subfolder_nothing_else_is_fetched(load, cold):
    assert load(folder={"subfolder": "critic", "cache_dir": str(cold)})["files"] == set(OWN[2:])


def test_files_are_of_one_commit(load, loads, hub, cold, folders):
    """Also where somebody pushes between the first request and the next."""
    hub.add("org/moving", folders / "toy")
    commit = hub.repositories["org/moving"].find("main")[0]
    hub.fail("foreign", "GET", "/api/models/org/moving/tree/")
    found = load("org/moving", cache_dir=cold)
    loads(found)
    assert hub.repositories["org/moving"].find("main")[0] != commit
    assert {request.path.split("/")[4] for request in found["requests"] if "/resolve/" in request.path} == {commit}
    assert len([request for request in found["requests"] if "/revision/" in request.path]) == 1


def test_a_warm_branch_is_one_request_and_a_commit_none(load, loads, hub, warm):
    again = load(cache_dir=warm)
    loads(again)
    assert [request.path.partition("?")[0] for request in again["requests"]] == ["/api/models/org/toy/revision/main"]
    commit = load(cache_dir=warm, revision=hub.repositories["org/toy"].find("main")[0])
    loads(commit)
    assert commit["requests"] == []


def test_every_request_names_hfgen(load, cold):
    assert all(request.user_agent.startswith("hfgen/") for request in load(cache_dir=cold)["requests"])


def test_the_token_goes_to_the_hub_alone(load, loads, cold):
    found = load("org/private", token=TOKEN, cache_dir=cold)
    loads(found)
    stored = {request.token for request in found["requests"] if request.host.startswith("localhost")}
    assert stored == {None}
    assert {request.token for request in found["requests"] if request.host.startswith("127.0.0.1")} == {TOKEN}


# --- offline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"offline": True}, {"local_files_only": True}])
def test_offline_nothing_is_asked(load, loads, warm, cold, how):
    found = load(cache_dir=warm, **how)
    loads(found)
    nothing = load(cache_dir=cold, **how)
    assert "not in the cache" in nothing["message"]
    assert found["requests"] == nothing["requests"] == []


@pytest.mark.parametrize("how", [{"offline": True}, {"local_files_only": True}])
def test_a_part_of_a_repository_is_not_loaded(load, cold, how):
    """Of which the client knows the rest, or not."""
    load(only="model_index.json", cache_dir=cold)
    found = load(cache_dir=cold, **how)
    assert "Only a part of" in found["message"]
    assert "config.json is missing" in found["message"]
    load(critic=None, cache_dir=cold)
    found = load(cache_dir=cold, **how)
    assert "critic/config.json is missing" in found["message"]
    assert "Load it once with a connection" in found["message"]


def test_the_hub_is_gone(load, loads, hub, warm, cold):
    with hub.gone():
        loads(load(cache_dir=warm))
        loads(load(cache_dir=warm, force_download=True))
        found = load(cache_dir=cold)
    assert found["error"] == "LoadError"
    assert "cannot be reached" in found["message"]


@pytest.mark.parametrize("what", [503, 500, 429, "dropped", "reset", "slow"])
def test_a_warm_cache_is_used_while_the_hub_fails(load, loads, hub, warm, what):
    hub.fail(what, "GET", "/api/models/org/toy/revision/", seconds=1.5)
    found = load(cache_dir=warm)
    loads(found)
    assert hub.faults[-1].times == 0
    assert len(found["requests"]) <= 1


# --- what goes wrong --------------------------------------------------------------------------------------------

INFO, STORED, CONFIG = "/api/models/org/toy/revision/", "/stored/", "/generator/config.json"


@pytest.mark.parametrize(
    ("what", "method", "part", "times"),
    [
        *[(what, "GET", INFO, 2) for what in (503, 500, "dropped", "reset", "refusing")],
        *[(what, "GET", "/tree/", 1) for what in (503, "dropped", "reset")],
        *[(what, "HEAD", CONFIG, 1) for what in (503, "dropped", "reset", "refusing")],
        *[(what, "GET", CONFIG, 1) for what in (500, "dropped", "reset", "cut", "wrong")],
        *[(what, "GET", STORED, 2) for what in (503, "dropped", "reset", "cut")],
        ("wrong", "GET", STORED, 1),
    ],
)
def test_a_fault_that_passes_is_passed(load, loads, hub, cold, what, method, part, times):
    hub.fail(what, method, part, times=times, seconds=1)
    loads(load(cache_dir=cold))
    assert hub.faults[-1].times == 0
    assert not list(cold.rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("what", "part", "words"),
    [
        (503, INFO, "could not be fetched"),
        (429, INFO, "fewer requests"),
        ("dropped", INFO, "could not be fetched"),
        (503, STORED, "Try again"),
        ("wrong", STORED, "arrived damaged, 2 times.*force_download=True"),
    ],
)
def test_a_fault_that_stays_is_one_error(load, loads, hub, cold, what, part, words):
    hub.fail(what, "GET", part, times=99)
    found = load(cache_dir=cold)
    hub.faults[-1].times = 0
    assert found["error"] == "LoadError"
    assert "org/toy" in found["message"]
    assert len(found["requests"]) <= 40

    assert re.search(words, found["message"], re.DOTALL), found["message"]
    loads(load(cache_dir=cold))  # and nothing that is damaged was kept


def test_a_tag_is_the_commit_that_it_was_put_on(load, loads, hub, cold, folders):
    """And stays so, when the branch moves on."""
    hub.add("me/tagged", folders / "toy")
    assert "'name': 'me'" in load(api="whoami", words={}, token=TOKEN)["answer"]
    assert load(api="create_tag", words={"repo_id": "me/tagged", "tag": "v1"}, token=TOKEN)["answer"] == "None"
    hub.add("me/tagged", folders / "other")
    loads(load("me/tagged", cache_dir=cold, revision="v1"))
    loads(load("me/tagged", cache_dir=cold), "other")


def test_an_update_that_fails_leaves_what_was_cached(load, loads, hub, cold, folders):
    """A branch is noted to have moved once what is needed of its new commit is here."""
    hub.add("org/moves", folders / "toy")
    loads(load("org/moves", cache_dir=cold))
    hub.add("org/moves", folders / "other")
    hub.fail(403, "GET", "org/moves/resolve", times=99)
    assert "error" in load("org/moves", cache_dir=cold)
    hub.faults[-1].times = 0
    loads(load("org/moves", cache_dir=cold, local_files_only=True))
    loads(load("org/moves", cache_dir=cold), "other")
    loads(load("org/moves", cache_dir=cold, local_files_only=True), "other")


def test_two_files_of_one_content_arrive_damaged(load, loads, hub, cold, folders, tmp_path):
    """They share a blob of the cache; the second try is made all the same."""
    twins = shutil.copytree(folders / "toy", tmp_path / "twins")
    (twins / "generator" / "extra.json").write_text("{}")
    (twins / "critic" / "extra.json").write_text("{}")
    hub.add("org/twins", twins)
    hub.fail("wrong", "GET", "extra.json")
    loads(load("org/twins", cache_dir=cold))


@pytest.mark.parametrize("name", ["model_index.json", "generator/config.json", f"generator/{WEIGHTS}"])
def test_a_cache_that_was_damaged_is_mended(load, loads, cold, name):
    """As the message says."""
    load(cache_dir=cold)
    path = next(cold.rglob(f"snapshots/*/{name}")).resolve()
    path.write_bytes(path.read_bytes()[:20])
    found = load(cache_dir=cold)
    assert "force_download=True" in found["message"]
    loads(load(cache_dir=cold, force_download=True))


def test_which_revisions_are_cached_is_told(load, warm):
    found = load(cache_dir=warm, revision="v9", local_files_only=True)
    assert re.search(r"revision 'v9' of 'org/toy' is not in the cache, only main", found["message"]), found


def test_which_variants_a_repository_has_is_told_before_weights_are_fetched(load, cold):
    found = load(cache_dir=cold, variant="fp16")
    assert "no weights of the variant 'fp16', only of: ema" in found["message"]
    assert found["files"] <= {"model_index.json", "README.md"}


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("org/gated", {}, "is gated.*Accept its conditions"),
        ("org/gated", {"token": READER}, "is gated.*Accept its conditions"),
        ("org/private", {}, "no readable repository.*token="),
        ("org/private", {"token": READER}, "no readable repository.*token="),
        ("org/toy", {"token": "hf_nobody_has_it"}, "The token is not valid"),
        ("org/toy", {"revision": "v9"}, "no revision 'v9'"),
        ("org/toy", {"revision": "0" * 40}, "no revision '0000"),
    ],
)
def test_what_may_not_be_read_or_is_not_there(load, cold, target, options, words):

    found = load(target, cache_dir=cold, **options)
    assert found["error"] == "LoadError"
    assert re.search(words, found["message"], re.DOTALL), found["message"]
    assert target in found["message"]


def test_a_gated_repository_is_read_with_its_token(load, loads, cold):
    loads(load("org/gated", token=TOKEN, cache_dir=cold))
