"""`hfgen info` of folders: photos, models and runs are told apart by what they hold."""

import json

import pytest
import yaml
from click.testing import CliRunner
from stream_data import png

from hfgen.commands.info import command, describe
from hfgen.errors import LoadError


@pytest.fixture
def photos(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "a: 1\n"),
        ("config.yaml", "model: yolo\n"),
        ("config.yaml", "}{"),
        ("config.yaml", "- 1\n"),
        ("model_index.json", "{}"),
        ("model_index.json", "[1"),
        ("model_index.json", '{"model": "x"}'),
        ("model_index.json", "3"),
    ],
)
def test_photos_beside_a_stray_file_are_a_dataset(photos, name, text):
    (photos / name).write_text(text)
    facts = describe(str(photos))
    assert (facts["dataset"], facts["images"]) == (str(photos), 4)
    assert facts["notes"] == [f"left out: 1 .{name.partition('.')[2]}"]


def test_a_run_and_a_damaged_model_stay_what_they_are(photos):
    (photos / "samples").mkdir()
    (photos / "config.yaml").write_text(yaml.safe_dump({"model": "vae", "dataset_name": "photos"}))
    assert describe(str(photos))["unfinished_run"] == str(photos)
    (photos / "config.yaml").write_text("a: 1")
    (photos / "metrics.jsonl").write_text('{"step": 1}\n')
    assert describe(str(photos))["last_metrics"] == {"step": 1}
    (photos / "metrics.jsonl").unlink()
    (photos / "unet").mkdir()
    (photos / "unet" / "model.safetensors").write_bytes(b"")
    (photos / "model_index.json").write_text("{}")
    with pytest.raises(LoadError, match="names no pipeline class"):
        describe(str(photos))


def test_data_are_read_as_a_training_would_read_them(photos):
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            (photos / "data" / split / kind).mkdir(parents=True)
            (photos / "data" / split / kind / "0.png").write_bytes(png(9))
    (photos / "data" / "train" / "cat" / "1.png").write_bytes(b"")

    def info(*words):
        done = CliRunner().invoke(command, [str(photos / "data"), "--json", *words])
        return json.loads(done.stdout) if done.exit_code == 0 else str(done.exception or done.output)

    assert "cannot be read" in info("--image_mode", "RGB")
    facts = info("--on_error", "skip", "--image_mode", "RGBA")
    assert (facts["images"], facts["mode"]) == (2, "RGBA")
    assert info("--dataset_split", "test")["images"] == 2
    assert "no column 'x'" in info("--label_column", "x")
