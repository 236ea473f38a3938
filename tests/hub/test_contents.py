"""The files of a folder that are published, and folders that cannot be."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Repository
from safetensors.torch import load_file, save_file

from hfgen import HFGenPipeline
from hfgen.cards.card import without_folders
from hfgen.errors import LoadError, UsageError
from hfgen.hub.contents import check_model, refuse_not_finite
from hfgen.hub.publish import check_place, retry_command
from hfgen.hub.upload import Place, upload
from hfgen.repository.model_folder import ModelFolder


def test_only_whole_models_are_pushed(copy, tmp_path, run):
    check_model(ModelFolder(copy), "")
    with pytest.raises(
        UsageError, match=r"checkpoint-2 is a checkpoint; push the model of its run: hfgen push \S*my-model me"
    ):
        check_model(
            ModelFolder(run / "checkpoints" / "checkpoint-2"),
            f"hfgen push {run / 'checkpoints' / 'checkpoint-2'} me/x",
        )
    with pytest.raises(UsageError, match="is not a folder"):
        check_model(ModelFolder(tmp_path / "nothing"), "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="has no model_index.json"):
        check_model(ModelFolder(tmp_path / "empty"), "")
    weights = copy / "generator" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(UsageError, match=r"no weights in generator/\*.safetensors"):
        check_model(ModelFolder(copy), "")
    (copy / "generator" / "config.json").unlink()
    with pytest.raises(UsageError, match="generator/config.json is missing"):
        check_model(ModelFolder(copy), "")
    (copy / "model_index.json").unlink()
    with pytest.raises(UsageError, match="the run is not finished"):
        check_model(ModelFolder(copy), "")


def test_a_size_that_is_none_is_told(run, hfgen):
    done = hfgen("push", run, "me/size", "--max_shard_size", "5 elephants", code=2)
    assert "not a size such as 500MB" in done["err"]
    assert not done["requests"]


def test_missing_shards_are_found(copy):
    HFGenPipeline.from_pretrained(copy).save_pretrained(copy, max_shard_size="1KB")
    check_model(ModelFolder(copy), "")
    next((copy / "generator").glob("*-00002-of-*")).unlink()
    with pytest.raises(LoadError, match=r"incomplete: generator/\S*-00002-of-\S* is missing"):
        check_model(ModelFolder(copy), "")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (Place("a/b/c"), "not a repository name"),
        (Place("me/x", create_pr=True, revision="dev"), "leave out --revision or --create_pr"),
        (Place("me/x", revision="0" * 40), "give a branch"),
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_published(copy, value):
    place = copy / "generator" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(place)
    refuse_not_finite(copy)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = value
    save_file(tensors, place, {"format": "pt"})
    with pytest.raises(UsageError, match=f"{name} holds NaN or infinite weights; nothing was sent"):
        refuse_not_finite(copy)


def test_what_is_private_does_not_become_public_by_an_argument():
    class Api:
        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def repo_info(self, repo_id, **options):
            return SimpleNamespace(private=True)

    with pytest.raises(UsageError, match="me/x exists and is private; nothing was sent. Leave out private=False"):
        upload(Api(), Place("me/x", private=False), lambda there: pytest.fail("it was asked for files"))
