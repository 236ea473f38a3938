"""`--push_to_hub`: one commit at the end, by the real client, to a stand-in for the Hub."""

import base64
import subprocess
import sys

import pytest
from hub_server import TOKEN, HubServer

from hfgen import HFGenPipeline
from hfgen.arguments import TrainingArguments
from hfgen.errors import UsageError
from hfgen.publishing import require_token
from hfgen.testing import make_data


def train(hub, tmp_path, folder, *options, token=TOKEN):
    data = make_data(tmp_path / "blobs.npz", 16, 1)
    tiny = ["--generator.base_channels", "4", "--generator.latent_dim", "6", "--discriminator.base_channels", "4"]
    settings = ["--dataset_name", str(data), "--output_dir", str(folder), "--max_train_steps", "2"]
    settings += ["--train_batch_size", "4", "--num_validation_images", "4", "--push_to_hub", *options]
    environment = {**hub.environment(tmp_path / "home"), **({"HF_TOKEN": token} if token else {})}
    command = [sys.executable, "-m", "hfgen.train", "dcgan", *tiny, *settings]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)


def content(operations):
    """Name -> bytes of the files of a commit."""
    files = [operation["value"] for operation in operations if operation["key"] == "file"]
    return {file["path"]: base64.b64decode(file["content"]) for file in files}


def test_a_run_is_pushed_as_one_commit(tmp_path):
    with HubServer() as hub:
        done = train(hub, tmp_path, tmp_path / "my-model", "--hub_private_repo")
        assert done.returncode == 0, done.stderr
        assert f"pushed to http://127.0.0.1:{hub.server_port}/me/my-model" in done.stderr
        ((repo_id, operations),) = hub.commits
    assert repo_id == "me/my-model"
    assert hub.created["me/my-model"]["visibility"] == "private"
    files = content(operations)
    assert {"model_index.json", "README.md", "config.yaml", "metrics.jsonl", "samples/step_000002.png"} <= set(files)
    assert not [name for name in files if name.startswith(("checkpoints", "logs", "best", "."))]
    for name, data in files.items():
        assert TOKEN.encode() not in data, name
        assert str(tmp_path).encode() not in data, name
    for name, data in files.items():
        (tmp_path / "pulled" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pulled" / name).write_bytes(data)
    HFGenPipeline.from_pretrained(tmp_path / "pulled")
    for file in (tmp_path / "my-model").rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes(), file


def test_a_push_that_is_refused_costs_nothing_but_the_push(tmp_path):
    with HubServer() as hub:
        done = train(hub, tmp_path, tmp_path / "run", "--hub_token", "hf_wrong")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "was not pushed to run" in done.stderr
    assert "hf upload" in done.stderr
    assert "hf_wrong" not in done.stderr
    HFGenPipeline.from_pretrained(tmp_path / "run")


def test_who_is_not_logged_in_is_told_before_the_training(monkeypatch):
    monkeypatch.setattr("hfgen.publishing.get_token", lambda: None)
    with pytest.raises(UsageError, match="--push_to_hub needs a token: `hf auth login`"):
        require_token(TrainingArguments(push_to_hub=True))
    require_token(TrainingArguments(push_to_hub=True, hub_token="hf_x"))
    require_token(TrainingArguments())
