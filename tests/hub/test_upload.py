"""Uploads that fail, and are tried again without a second commit; and pushes that are refused."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from hub_server import READER, TOKEN
from huggingface_hub.errors import OfflineModeIsEnabled
from pushing import commit_requests, snapshot, training

from hfgen import HFGenPipeline
from hfgen.cards.parts import unmarked
from hfgen.errors import UsageError
from hfgen.hub import access, publish
from hfgen.hub.client import is_transient
from hfgen.hub.contents import contents, prepared
from hfgen.hub.upload import Place
from hfgen.settings.arguments import TrainingArguments
from hfgen.training.pushing import require_place

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
    assert "somebody changed main meanwhile; it was not overwritten" in done["err"]
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
        ("they/theirs", TOKEN, "for a repository of others, --create_pr"),
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


def test_a_training_pushes_on_its_way(hub, hfgen, run, place):
    """With each grid the model of that step, one commit each; the run's folder holds none until the end."""
    words = ["--hub_model_id", "me/on-the-way", "--hub_strategy", "every_validation", "--validation_steps", "1"]
    done = hfgen(*training(place / "blobs.npz", place / "on the way", *words))
    assert [repo_id for repo_id, _ in done["commits"]] == ["me/on-the-way"] * 2
    assert "step 1 pushed to" in done["err"]
    files = hub.files("me/on-the-way")
    assert {"samples/step_000001.png", "samples/step_000002.png", "generator/config.json"} <= set(files)
    published, local = unmarked(files["README.md"].decode()), (place / "on the way" / "README.md").read_text()
    assert published.replace("me/on-the-way", "on the way") == local.replace("'on the way'", "on the way")
    assert 'HFGenPipeline.from_pretrained("me/on-the-way")' in published
    hub.fail(403, "POST", "/preupload/", times=2)  # the token was taken back meanwhile
    refused = hfgen(*training(place / "blobs.npz", place / "off", *words), code=1)
    assert "step 1 was not pushed; the training goes on: " in refused["err"]
    HFGenPipeline.from_pretrained(place / "off")


def test_a_training_whose_push_is_refused_loses_nothing_else(hub, hfgen, run, place):
    hub.fail(403, "POST", "/repos/create")
    done = hfgen(*training(place / "blobs.npz", place / "refused"), code=1)
    assert "refused was not pushed to me/refused" in done["err"]
    assert f"hfgen push {place / 'refused'} refused" in done["err"]
    HFGenPipeline.from_pretrained(place / "refused")


def test_who_is_not_logged_in_is_told_before_the_training(monkeypatch, tmp_path):
    monkeypatch.setattr(access, "get_token", lambda: None)
    monkeypatch.setattr(access, "account_of", lambda token: {"name": "me"})
    with pytest.raises(UsageError, match="--push_to_hub needs a token: `hf auth login`"):
        require_place(TrainingArguments(push_to_hub=True), Path("run"), print)
    require_place(TrainingArguments(push_to_hub=True, hub_token="hf_x"), Path("run"), print)
    require_place(TrainingArguments(), Path("run"), print)
    for token in (None, False):
        with pytest.raises(UsageError, match="needs a token: `hf auth login`"):
            publish.publish(tmp_path, Place("me/x"), token=token)
        monkeypatch.setattr(access, "get_token", lambda: "hf_of_somebody")


def test_a_name_that_no_repository_can_have_is_told_before_the_training(monkeypatch):
    monkeypatch.setattr(access, "get_token", lambda: "hf_x")
    with pytest.raises(UsageError, match="--hub_model_id: 'bad id' is not a repository name"):
        require_place(TrainingArguments(push_to_hub=True, hub_model_id="bad id"), Path("run"), print)
    with pytest.raises(UsageError, match="--hub_model_id: 'my run' is not a repository name"):
        require_place(TrainingArguments(push_to_hub=True), Path("my run"), print)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a.b"])
def test_a_variant_is_a_part_of_a_file_name(run, tmp_path, name):
    with pytest.raises(UsageError, match="is not a variant's name"):
        HFGenPipeline.from_pretrained(run).save_pretrained(tmp_path / "saved", variant=name)
    with pytest.raises(UsageError, match="is not a variant's name"):
        with prepared(run, Place("me/x"), name, None, "again"):
            pass


def test_a_pipeline_over_a_run_says_what_it_replaces(hub, hfgen, run):
    """The run's card and results told of other weights."""
    hfgen("push", run, "me/replaced")
    done = hfgen("push_to_hub", run, "me/replaced", json.dumps({"commit_message": "Anew"}))
    assert "files of a run" in done["err"]
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
