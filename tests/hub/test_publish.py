"""Publishing as one commit, by the real client, to a stand-in for the Hub; and the files that it replaces."""

import json

import torch
from hub_server import READER, TOKEN
from pushing import commit_requests

from hfgen import HFGenPipeline
from hfgen.cards.parts import unmarked
from hfgen.hub.contents import Prepared, changes

# --- a push as it should be -------------------------------------------------------------------------------------


def test_a_training_pushes_its_run_as_one_commit(hub, trained, run, place):
    assert f"pushed to http://127.0.0.1:{hub.server_port}/me/my-model" in trained["err"]
    assert [repo_id for repo_id, _ in hub.commits].count("me/my-model") == 1
    assert hub.created["me/my-model"]["visibility"] == "private"
    files = hub.files("me/my-model")
    assert {"model_index.json", "README.md", "config.yaml", "metrics.jsonl", "samples/step_000002.png"} <= set(files)
    assert not [name for name in files if name.startswith(("checkpoints", "logs", "best"))]
    for name, data in files.items():
        assert TOKEN.encode() not in data, name
        assert str(place).encode() not in data, name
    card = unmarked(files["README.md"].decode())
    assert 'from_pretrained("me/my-model")' in card  # the local card names its folder
    assert card.replace("me/my-model", "my-model") == (run / "README.md").read_text()
    for file in run.rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes(), file


def test_what_was_pushed_is_what_is_loaded(hub, run, hfgen):
    done = hfgen("push", run, "me/plain")
    assert done["out"].startswith(f"http://127.0.0.1:{hub.server_port}/me/plain (")
    assert all(request.user_agent.startswith("hfgen/") for request in commit_requests(done))
    assert len(done["commits"]) == len(commit_requests(done)) == 1
    (here, there) = (json.loads(hfgen("pixels", name, "{}")["out"]) for name in (run, "me/plain"))
    assert here == there


def test_the_token_goes_to_the_hub_only(hub):
    """The stand-in's storage answers 400 to any token."""
    sent = [request for request in hub.requests if request.path.startswith("/stored/")]
    assert sent
    assert not any(request.token for request in sent)


def test_the_same_again_is_no_commit(run, hfgen):
    hfgen("push", run, "me/again")
    done = hfgen("push", run, "me/again")
    assert "nothing was changed" in done["out"]
    assert not done["commits"]


def test_json(run, hfgen, hub):
    done = json.loads(hfgen("push", run, "me/json", "--json")["out"])
    assert done["repo_id"] == "me/json"
    assert done["oid"] == hub.repositories["me/json"].find("main")[0]
    assert {*done["files"], ".gitattributes"} == set(hub.files("me/json"))


def test_a_private_repository_is_private_from_the_first_request(hub, run, hfgen):
    done = hfgen("push", run, "me/private", "--private")
    writing = [request for request in done["requests"] if request.method != "GET"]
    assert [request.path.partition("?")[0] for request in writing][:2] == ["/api/validate-yaml", "/api/repos/create"]
    assert hub.created["me/private"]["visibility"] == "private"


def test_private_is_not_pushed_to_what_is_public(hub, run, hfgen):
    hub.add("me/public", run.parent / "nothing")
    done = hfgen("push", run, "me/public", "--private", code=2)
    assert "exists and is public; nothing was sent" in done["err"]
    assert not done["commits"]


def test_a_branch_is_made_and_main_is_left_alone(hub, run, hfgen):
    done = hfgen("push", run, "me/branch", "--revision", "dev/new", "--commit_message", "Brighter")
    assert "/tree/dev/new" in done["out"]
    assert "README.md" in hub.files("me/branch", "dev/new")
    assert "README.md" not in hub.files("me/branch")
    assert done["commits"][0][1][0]["value"]["summary"] == "Brighter"


def test_a_pull_request_to_somebody_else(hub, run, hfgen, tmp_path):
    (tmp_path / "README.md").write_text("Theirs.\n")
    hub.add("they/model", tmp_path)
    done = hfgen("push", run, "they/model", "--create_pr", "--token", READER)
    assert done["out"].startswith(f"http://127.0.0.1:{hub.server_port}/they/model/discussions/1")
    assert hub.files("they/model") == {"README.md": b"Theirs.\n"}
    assert "model_index.json" in hub.files("they/model", "refs/pr/1")
    again = hfgen("push", run, "they/model", "--create_pr", "--token", READER)
    assert "discussions/1" in again["out"]
    assert not again["commits"]


def test_a_dry_run_sends_nothing(run, hfgen):
    done = hfgen("push", run, "me/dry", "--dry_run")
    assert not done["requests"]
    assert f"  config.json{' ' * 5}" in done["out"]
    assert "Nothing was sent" in done["err"]
    told = json.loads(hfgen("push", run, "me/dry", "--dry_run", "--json")["out"])
    weights = "generator/diffusion_pytorch_model.safetensors"
    assert told["files"][weights] == (run / weights).stat().st_size
    assert told["bytes"] == sum(told["files"].values())


# --- what is replaced -------------------------------------------------------------------------------------------


def test_old_shards_and_pictures_go_with_the_same_commit(hub, run, copy, hfgen):
    (copy / "samples" / "step_000002.png").rename(copy / "samples" / "step_000001.png")
    hfgen("push", copy, "me/shards", "--max_shard_size", "1KB")
    before = hub.files("me/shards")
    assert any("-00001-of-" in name for name in before)
    hub.repositories["me/shards"].commit("main", "main", hub.new_folder(), {"LICENSE": b"MIT", "a/b.bin": b""}, [])
    done = hfgen("push", run, "me/shards")
    after = hub.files("me/shards")
    assert len(done["commits"]) == 1
    assert not any("-of-" in name or "index.json" in name.partition("/")[2] for name in after)
    assert "samples/step_000001.png" not in after
    assert after["LICENSE"] == b"MIT"  # of somebody else, as is a/b.bin
    assert "a/b.bin" in after
    assert json.loads(hfgen("pixels", "me/shards", "{}")["out"]) == json.loads(hfgen("pixels", run, "{}")["out"])


def test_code_that_hfgen_generates_goes_with_it_and_goes_again(hub, run, hfgen):
    told = json.loads(hfgen("push", run, "me/bundled", "--bundle_code", "--dry_run", "--json")["out"])
    hfgen("push", run, "me/bundled", "--bundle_code")
    files = hub.files("me/bundled")
    assert {name: len(data) for name, data in files.items() if name != ".gitattributes"} == told["files"]
    index = json.loads(files["model_index.json"])
    assert f"{index['_class_name'][0]}.py" in files
    assert f"generator/{index['generator'][0]}.py" in files
    assert 'DiffusionPipeline.from_pretrained("me/bundled", trust_remote_code=True)' in files["README.md"].decode()
    before = len(hub.requests)
    assert hfgen("pixels", "me/bundled", "{}")["out"] == hfgen("pixels", run, "{}")["out"]
    assert not [request for request in hub.requests[before:] if ".py" in request.path]
    hfgen("push", run, "me/bundled", "--bundle_code", "--max_shard_size", "1KB")
    assert json.loads(hub.files("me/bundled")["model_index.json"])["_class_name"] == index["_class_name"]
    hfgen("push", run, "me/bundled")
    assert not [name for name in hub.files("me/bundled") if name.endswith(".py")]
    card = unmarked(hub.files("me/bundled")["README.md"].decode())
    assert card.replace("me/bundled", "my-model") == (run / "README.md").read_text()


def test_code_is_published_only_as_hfgen_generates_it(hub, run, hfgen, tmp_path):
    """By content: a generated file that was changed is somebody's code, whatever it is called."""
    folder = tmp_path / "pipeline"
    HFGenPipeline.from_pretrained(run).save_pretrained(folder, bundle_code=True)
    hfgen("push", folder, "me/as-saved")
    assert any(name.endswith(".py") for name in hub.files("me/as-saved"))
    assert "trust_remote_code" in hub.files("me/as-saved")["README.md"].decode()
    path = next(folder.glob("*.py"))
    path.write_text(path.read_text() + "\nprint()\n")
    for words in ([], ["--bundle_code"]):
        refused = hfgen("push", folder, "me/changed", *words, code=2)
        assert f"{path.name}: code, which a model does not need; move it away" in refused["err"]
    assert "me/changed" not in hub.repositories


def test_a_pipeline_pushes_its_code(hub, run, hfgen):
    hfgen("push_to_hub", run, "me/by-hand-bundled", json.dumps({"bundle_code": True}))
    files = hub.files("me/by-hand-bundled")
    assert any(name.startswith("pipeline_") for name in files)
    assert 'from_pretrained("me/by-hand-bundled", trust_remote_code=True)' in files["README.md"].decode()


def test_a_variant_joins_the_weights_that_are_there(hub, run, hfgen):
    hfgen("push", run, "me/variants")
    before = hub.files("me/variants")
    done = hfgen("push", run, "me/variants", "--variant", "ema")
    after = hub.files("me/variants")
    assert {name: after[name] for name in before} == before
    assert "generator/diffusion_pytorch_model.ema.safetensors" in after
    assert len(done["commits"]) == 1
    hfgen("pixels", "me/variants", '{"variant": "ema"}')


def test_a_pipeline_pushes_itself(hub, run, hfgen, tmp_path):
    pipeline = tmp_path / "pipeline"
    HFGenPipeline.from_pretrained(run).to(torch.float16).save_pretrained(pipeline)
    options = {"private": True, "commit_message": "By hand"}
    done = hfgen("push_to_hub", pipeline, "me/by-hand", json.dumps(options))
    card = hub.files("me/by-hand")["README.md"].decode()
    assert "library_name: hfgen" in card
    assert "More Information Needed" not in card
    assert 'from_pretrained("me/by-hand")' in card
    assert done["commits"][0][1][0]["value"]["summary"] == "By hand"


def test_a_card_that_somebody_wrote_survives_a_push_without_one(hub, run, hfgen, tmp_path):
    HFGenPipeline.from_pretrained(run).save_pretrained(tmp_path / "pipeline")
    hfgen("push", tmp_path / "pipeline", "me/own-card")
    own = {"README.md": b"# My own words\n"}
    hub.repositories["me/own-card"].commit("main", "main", hub.new_folder(), own, [])
    hfgen("push", tmp_path / "pipeline", "me/own-card", "--max_shard_size", "1KB")
    assert hub.files("me/own-card")["README.md"] == own["README.md"]


def test_a_card_of_a_run_does_not_outlive_it(run):
    there = {"README.md", "config.yaml", "plots/loss.png", "unet/config.json", "LICENSE", "plots/mine/own.png"}
    files, removed = changes(Prepared({"README.md": b"", "model_index.json": b""}, None, True), there)
    assert set(files) == {"README.md", "model_index.json"}  # even a makeshift card tells more than that run's
    assert removed == ["config.yaml", "plots/loss.png", "unet/config.json"]


def test_half_precision_stays_half_when_it_is_saved_anew(hub, run, hfgen, tmp_path):
    HFGenPipeline.from_pretrained(run).to(torch.bfloat16).save_pretrained(tmp_path / "pipeline")
    hfgen("push", tmp_path / "pipeline", "me/half", "--max_shard_size", "1KB")
    shards = [data for name, data in hub.files("me/half").items() if "-00001-of-" in name and "generator" in name]
    assert b"BF16" in shards[0]
    assert b"F32" not in shards[0]
