"""Publishing: one commit, by the real client, to a stand-in for the Hub; what goes wrong; what is refused."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from hub_child import HubChild
from hub_server import READER, TOKEN, HubServer, Repository
from huggingface_hub.errors import OfflineModeIsEnabled

from hfgen import HFGenPipeline
from hfgen.cards.card import without_folders
from hfgen.errors import LoadError, UsageError
from hfgen.hub import publish
from hfgen.hub.client import is_transient
from hfgen.hub.contents import Prepared, changes, check_model, contents, prepared
from hfgen.hub.publish import check_place, retry_command
from hfgen.hub.screening import refuse
from hfgen.hub.upload import Place
from hfgen.settings.arguments import TrainingArguments
from hfgen.testing import make_data
from hfgen.training.pushing import require_place

# Runs command lines of `hfgen`, one after the other, in one process; waits between tries are short.
CHILD = """
import contextlib, io, json
from hfgen import HFGenPipeline
from hfgen.commands import main as cli
from hfgen.hub import client, upload
from hfgen.errors import HFGenError

client.WAITS = upload.WAITS = (0.01,) * 4

def answer(words):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if words[0] == "push_to_hub":
                pushed = HFGenPipeline.from_pretrained(words[1]).push_to_hub(words[2], **json.loads(words[3]))
                print(pushed.commit_url)
            elif words[0] == "pixels":
                pipeline = HFGenPipeline.from_pretrained(words[1], **json.loads(words[2]))
                print(json.dumps(pipeline(seeds=[0, 1], output_type="np").images.ravel().tolist()))
            else:
                cli.main(words)
        except SystemExit as stop:
            code = stop.code
        except HFGenError as error:
            code = error.exit_code
            print(error, file=err)
    return {"out": out.getvalue(), "err": err.getvalue(), "code": code}
"""


class Hfgen(HubChild):
    """`hfgen` in a process whose Hub is the stand-in; one process serves all calls."""

    def __call__(self, *words, code=0):
        done = self.ask([str(word) for word in words])
        assert done["code"] == code, done
        assert "Traceback" not in done["err"]
        assert len(done["err"].splitlines()) <= 6 or words[0] == "train", done["err"]
        assert TOKEN not in done["out"] + done["err"]
        return done


def training(data, folder, *options):
    """The command line of a tiny training that pushes its run."""
    tiny = ["--generator.base_channels", "4", "--generator.latent_dim", "6", "--discriminator.base_channels", "4"]
    settings = ["--dataset_name", data, "--output_dir", folder, "--max_train_steps", "2", "--train_batch_size", "4"]
    return ["train", "dcgan", *tiny, *settings, "--num_validation_images", "4", "--push_to_hub", *options]


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("publishing")


@pytest.fixture(scope="module")
def hfgen(hub, place):
    child = Hfgen(hub, place / "home", CHILD, HF_TOKEN=TOKEN)
    yield child
    child.close()


@pytest.fixture(scope="module")
def trained(hfgen, place):
    """A run that pushed itself, to me/my-model."""
    return hfgen(*training(make_data(place / "blobs.npz", 16, 1), place / "my-model", "--hub_private_repo"))


@pytest.fixture(scope="module")
def run(trained, place):
    return place / "my-model"


@pytest.fixture
def copy(run, tmp_path):
    """Of the run, to be changed."""
    return copied(run, tmp_path / "copy")


def copied(folder, target):
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in ("checkpoints", "logs"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(path.read_bytes())
    return target


def snapshot(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commit_requests(done):
    return [request for request in done["requests"] if request.method == "POST" and "/commit/" in request.path]


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
    assert files["README.md"] == (run / "README.md").read_bytes()
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
    card = hub.files("me/bundled")["README.md"].decode()
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


# --- what goes wrong on the way ---------------------------------------------------------------------------------

ONCE_OR_TWICE = {
    "create-503": (503, "POST", "/repos/create", 2),
    "create-dropped": ("dropped", "POST", "/repos/create", 2),
    "create-lost": ("lost", "POST", "/repos/create", 1),
    "validate-500": (500, "POST", "/validate-yaml", 1),
    "info-dropped": ("dropped", "GET", "/api/models/me/info-dropped", 1),
    "commit-503": (503, "POST", "/me/commit-503/commit/", 2),
    "commit-429": (429, "POST", "/me/commit-429/commit/", 1),
    "commit-dropped": ("dropped", "POST", "/me/commit-dropped/commit/", 2),
    "commit-lost": ("lost", "POST", "/me/commit-lost/commit/", 1),
    "file-503": (503, "PUT", "/stored/", 1),
    "file-dropped": ("dropped", "PUT", "/stored/", 1),
}


@pytest.mark.parametrize("name", ONCE_OR_TWICE)
def test_what_passes_is_tried_again_and_committed_once(hub, run, hfgen, name, tmp_path):
    what, method, part, times = ONCE_OR_TWICE[name]
    hub.stored.clear()
    hub.fail(what, method, part, times=times)
    done = hfgen("push", run, f"me/{name}")
    assert hub.faults[-1].times == 0
    assert len(done["commits"]) == 1
    assert len(hub.repositories[f"me/{name}"].history["main"]) == 2
    assert set(hub.files(f"me/{name}")) == {*contents(run), ".gitattributes"}


def test_a_lost_commit_is_found_below_that_of_somebody_else(hub, run, hfgen):
    hub.fail("lost", "POST", "/me/lost-below/commit/")
    hub.fail("foreign", "GET", "/me/lost-below/commits/")
    done = hfgen("push", run, "me/lost-below")
    assert len(done["commits"]) == 1
    assert len(commit_requests(done)) == 1
    assert "NOTES.md" in hub.files("me/lost-below")


def test_a_lost_pull_request_is_not_opened_twice(hub, run, hfgen):
    hfgen("push", run, "me/pull", "--revision", "other")
    hub.fail("lost", "POST", "/me/pull/commit/")
    done = hfgen("push", run, "me/pull", "--create_pr")
    assert "/me/pull/discussions/1" in done["out"]
    assert len(hub.repositories["me/pull"].pulls) == 1


def test_what_somebody_else_committed_is_not_overwritten(hub, run, hfgen):
    hub.fail("foreign", "POST", "/me/foreign/commit/")
    done = hfgen("push", run, "me/foreign", code=1)
    assert "somebody changed main meanwhile; that was not overwritten" in done["err"]
    assert not done["commits"]
    assert set(hub.files("me/foreign")) == {".gitattributes", "NOTES.md"}


def test_a_failed_push_leaves_the_run_and_prints_the_command_that_succeeds(hub, run, hfgen):
    before = snapshot(run)
    hub.fail(503, "POST", "/me/never/commit/", times=5)
    words = ["push", run, "me/never", "--private", "--commit_message", "It's new"]
    done = hfgen(*words, code=1)
    assert "my-model was not pushed to me/never" in done["err"]
    assert snapshot(run) == before
    again = shlex.split(done["err"].partition("Again: ")[2])
    assert again == ["hfgen", *map(str, words)]
    hfgen(*again[1:])
    assert "model_index.json" in hub.files("me/never")


@pytest.mark.parametrize(
    ("repo_id", "token", "says"),
    [
        ("me/wrong", "hf_wrong_token", "not valid; `hf auth login`"),
        ("me/reads", READER, "needs the role `write`"),
        ("they/theirs", TOKEN, "to a repository of others, --create_pr"),
    ],
)
def test_who_may_not_write_is_told_and_leaves_nothing(hub, run, hfgen, repo_id, token, says):
    hfgen_as = [*("push", run, repo_id), *(["--token", token] if token != TOKEN else [])]
    done = hfgen(*hfgen_as, code=1)
    assert says in done["err"]
    assert token not in done["err"]
    assert repo_id not in hub.repositories


def test_a_card_that_the_hub_refuses_costs_no_repository(hub, copy, hfgen):
    card = copy / "README.md"
    card.write_text(card.read_text().replace("unconditional-image-generation", "nonsense"))
    done = hfgen("push", copy, "me/nonsense", code=2)
    assert "pipeline_tag is none of the known ones" in done["err"]
    card.write_text("---\nlicense: [\n---\n")
    assert "metadata cannot be read" in hfgen("push", copy, "me/nonsense", code=2)["err"]
    assert "me/nonsense" not in hub.repositories


def test_a_training_pushes_on_its_way(hub, hfgen, place):
    """With each grid the model of that step, one commit each; the run's folder holds none until the end."""
    words = ["--hub_model_id", "me/on-the-way", "--hub_strategy", "every_validation", "--validation_steps", "1"]
    done = hfgen(*training(place / "blobs.npz", place / "on the way", *words))
    assert [repo_id for repo_id, _ in done["commits"]] == ["me/on-the-way"] * 2
    assert "step 1 pushed to" in done["err"]
    files = hub.files("me/on-the-way")
    assert {"samples/step_000001.png", "samples/step_000002.png", "generator/config.json"} <= set(files)
    published, local = files["README.md"].decode(), (place / "on the way" / "README.md").read_text()
    assert published.replace("me/on-the-way", "on the way") == local.replace("'on the way'", "on the way")
    assert 'HFGenPipeline.from_pretrained("me/on-the-way")' in published
    refused = hfgen(*training(place / "blobs.npz", place / "off", *words, "--hub_token", "hf_wrong"), code=1)
    assert "step 1 was not pushed; the training goes on: " in refused["err"]
    HFGenPipeline.from_pretrained(place / "off")


def test_a_training_whose_push_is_refused_loses_nothing_else(hfgen, run, place):
    done = hfgen(*training(place / "blobs.npz", place / "refused", "--hub_token", "hf_wrong"), code=1)
    assert "refused was not pushed to refused" in done["err"]
    assert f"hfgen push {place / 'refused'} refused" in done["err"]
    assert "hf_wrong" not in done["err"]
    HFGenPipeline.from_pretrained(place / "refused")


def test_who_is_not_logged_in_is_told_before_the_training(monkeypatch, tmp_path):
    monkeypatch.setattr(publish, "get_token", lambda: None)
    with pytest.raises(UsageError, match="--push_to_hub needs a token: `hf auth login`"):
        require_place(TrainingArguments(push_to_hub=True), Path("run"))
    require_place(TrainingArguments(push_to_hub=True, hub_token="hf_x"), Path("run"))
    require_place(TrainingArguments(), Path("run"))
    for token in (None, False):
        with pytest.raises(UsageError, match="needs a token: `hf auth login`"):
            publish.publish(tmp_path, Place("me/x"), token=token)
        monkeypatch.setattr(publish, "get_token", lambda: "hf_of_somebody")


def test_a_name_that_no_repository_can_have_is_told_before_the_training(monkeypatch):
    monkeypatch.setattr(publish, "get_token", lambda: "hf_x")
    with pytest.raises(UsageError, match="--hub_model_id: 'bad id' is no name of a repository"):
        require_place(TrainingArguments(push_to_hub=True, hub_model_id="bad id"), Path("run"))
    with pytest.raises(UsageError, match="--hub_model_id: 'my run' is no name"):
        require_place(TrainingArguments(push_to_hub=True), Path("my run"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a.b"])
def test_a_variant_is_a_part_of_a_file_name(run, tmp_path, name):
    with pytest.raises(UsageError, match="is no name of a variant"):
        HFGenPipeline.from_pretrained(run).save_pretrained(tmp_path / "saved", variant=name)
    with pytest.raises(UsageError, match="is no name of a variant"):
        with prepared(run, Place("me/x"), name, None, "again"):
            pass


def test_a_pipeline_over_a_run_says_what_it_replaces(hub, hfgen, run):
    """The run's card and results told of other weights."""
    hfgen("push", run, "me/replaced")
    done = hfgen("push_to_hub", run, "me/replaced", json.dumps({"commit_message": "Anew"}))
    assert "held of a run" in done["err"]
    assert "metrics.jsonl" not in hub.files("me/replaced")
    failed = hfgen("push_to_hub", run, "other/x", json.dumps({"private": True, "commit_message": "Anew"}), code=1)
    assert "Again: pipeline.push_to_hub('other/x', private=True, commit_message='Anew')" in failed["err"]


def test_what_a_dry_run_says_again_sends_nothing_either(hfgen, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "weights.bin").write_bytes(b"")
    done = hfgen("push", tmp_path / "run", "me/x", "--dry_run", code=2)
    assert done["err"].rstrip().endswith("me/x --dry_run")


def test_offline_is_not_tried_again():
    assert not is_transient(OfflineModeIsEnabled("offline"))
    assert is_transient(ConnectionError("of Xet"))


# --- what is refused --------------------------------------------------------------------------------------------

CONFIG = '{"_class_name": "Net", "%s": "%s"}\n'
HF_TOKEN = "hf_" + "aB3" * 11
REFUSED = {
    "weights.bin": (b"", "weights.bin: a pickle, which runs code when it is read; save it as safetensors"),
    "generator/old.PT": (b"", "generator/old.PT: a pickle"),
    "extra/model.ckpt": (b"", "extra/model.ckpt: a pickle"),
    "innocent.txt": (b"\x80\x04\x95\x10\x00", "innocent.txt: a pickle"),
    "archive.dat": (b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl", "archive.dat: a pickle"),
    "generator/net.py": (b"", "generator/net.py: code, which a model does not need"),
    "generator/other.safetensors": (b"\x80\x04.", "generator/other.safetensors: truncated or damaged; save it again"),
    "notes.md": (f"one\nuse {HF_TOKEN}".encode(), "notes.md: line 2 holds a token"),
    "params.yaml": (b"data: /data7/faces\n", "params.yaml: 'data' is '/data7/faces', of this machine"),
    "a/config.json": ((CONFIG % ("_name_or_path", "/home/kim/x")).encode(), "tells a path of this machine, /home/kim"),
    "b/config.json": ((CONFIG % ("_name_or_path", "./runs/x")).encode(), "'_name_or_path' is './runs/x'"),
    "c/config.json": ((CONFIG % ("p", r"C:\\Users\\kim\\x")).encode(), "tells a path of this machine, C:"),
    "card.md": (b"From ~/data/faces.", "card.md: line 1 tells a path of this machine, ~/data"),
    "LOG.txt": (b"file:///x", "LOG.txt: line 1 tells a path of this machine"),
    "d/config.json": ((CONFIG % ("author", "kimberley")).encode(), "tells your user name, kimberley"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LOGNAME", "kimberley")
    data, says = REFUSED[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as error:
        refuse(contents(tmp_path), "me/x", "AGAIN")
    assert says in str(error.value)
    assert HF_TOKEN not in str(error.value)
    assert str(error.value).startswith("Nothing was sent")
    assert str(error.value).endswith("AGAIN")


ALLOWED = {
    "README.md": "See https://example.org/home/x, `runs/x`, and/or 1/2 of kimberley/faces, at ~ 3 s.",
    "config.json": '{"_name_or_path": "kimberley/model", "act": "a:\\n"}',
    "env.json": '{"processor": "A / B", "hf_hub": "hf_hub_download_of_a_very_long_name"}',
    "LICENSE": "MIT",
    "samples/a.png": b"\x89PNG /home/kim",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LOGNAME", "kimberley")
    content = ALLOWED[name]
    refuse({name: content if isinstance(content, bytes) else content.encode()}, "me/x", "AGAIN")
    refuse({"README.md": b"By kimberley."}, "kimberley/x", "AGAIN")


def test_links_are_refused_not_followed(tmp_path):
    (tmp_path / "model" / "samples").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    (tmp_path / "model" / "samples" / "all").symlink_to(tmp_path / "secret")
    (tmp_path / "model" / "key.txt").symlink_to(tmp_path / "secret" / "key")
    os.mkfifo(tmp_path / "model" / "pipe")
    with pytest.raises(UsageError) as error:
        refuse(contents(tmp_path / "model"), "me/x", "AGAIN")
    assert "key.txt: a link" in str(error.value)
    assert "samples/all: a link" in str(error.value)
    assert "pipe: no plain file" in str(error.value)


def test_the_token_in_use_is_refused_wherever_it_stands():
    with pytest.raises(UsageError, match="train.log: line 1 holds a token"):
        refuse({"train.log": b"with private-token-1"}, "me/x", "AGAIN", "private-token-1")


def test_a_refusal_sends_nothing_and_leaves_the_message_short(copy, hfgen):
    for number in range(9):
        (copy / f"{number}.pkl").write_text("")
    done = hfgen("push", copy, "me/refused", code=2)
    assert not done["requests"]
    assert "and 5 more: hfgen push" in done["err"]


def test_only_whole_models_are_pushed(copy, tmp_path, run):
    check_model(copy, "")
    with pytest.raises(
        UsageError, match=r"checkpoint-2 is a checkpoint; the model is its run's: hfgen push \S*my-model me"
    ):
        check_model(run / "checkpoints" / "checkpoint-2", f"hfgen push {run / 'checkpoints' / 'checkpoint-2'} me/x")
    with pytest.raises(UsageError, match="is no folder"):
        check_model(tmp_path / "nothing", "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="holds no model_index.json"):
        check_model(tmp_path / "empty", "")
    weights = copy / "generator" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(UsageError, match=r"no weights in generator/\*.safetensors"):
        check_model(copy, "")
    (copy / "generator" / "config.json").unlink()
    with pytest.raises(UsageError, match="generator/config.json is missing"):
        check_model(copy, "")
    (copy / "model_index.json").unlink()
    with pytest.raises(UsageError, match="the run is not finished"):
        check_model(copy, "")


def test_a_size_that_is_none_is_told(run, hfgen):
    done = hfgen("push", run, "me/size", "--max_shard_size", "5 elephants", code=2)
    assert "no size such as 500MB" in done["err"]
    assert not done["requests"]


def test_missing_shards_are_found(copy):
    HFGenPipeline.from_pretrained(copy).save_pretrained(copy, max_shard_size="1KB")
    check_model(copy, "")
    next((copy / "generator").glob("*-00002-of-*")).unlink()
    with pytest.raises(LoadError, match=r"incomplete: generator/\S*-00002-of-\S* is missing"):
        check_model(copy, "")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (Place("a/b/c"), "no name of a repository"),
        (Place("me/x", create_pr=True, revision="dev"), "leave out --revision or --create_pr"),
        (Place("me/x", revision="0" * 40), "name a branch"),
    ],
)
def test_places_that_cannot_be(place, says):
    with pytest.raises(UsageError, match=says):
        check_place(place)


def test_the_command_to_repeat_it():
    place = Place("me/x", True, "dev", False, "It's new")
    assert retry_command(Path("a b"), place, "ema", "5GB") == (
        "hfgen push 'a b' me/x --private --revision dev --variant ema --max_shard_size 5GB "
        "--commit_message 'It'\"'\"'s new'"
    )
    assert retry_command(Path("a"), Place("me/x"), bundle_code=True).startswith("hfgen push a me/x --bundle_code")


def test_of_a_folder_that_was_moved_away_the_last_name_is_told_too():
    config = {"dataset_name": "/gone/faces", "train_data_dir": "../faces", "pretrained_model_name_or_path": "me/x"}
    assert without_folders(config, None) == {**config, "dataset_name": "faces", "train_data_dir": "faces"}


def test_the_stand_in_keeps_a_branch_of_its_own(tmp_path):
    """What the tests above rest on: history has the newest first, and an old commit is found by its id."""
    repository = Repository()
    first = repository.commit("main", "", tmp_path / "1", {"a": b"1"}, [])
    second = repository.commit("main", "main", tmp_path / "2", {"b": b"2"}, ["a"])
    assert repository.history["main"] == [second, first]
    assert set(repository.find(first)[1]) == {"a"}
