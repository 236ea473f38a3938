"""The real images that a model is compared with, from what its run remembers."""

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_trainings import config_of

from hfgen.data.builtin import BUILT_IN_FOLDERS
from hfgen.errors import UsageError
from hfgen.evaluation.evaluate import Asked, plan_evaluation
from hfgen.evaluation.likelihoods import log_likelihood
from hfgen.evaluation.reference import Data, Trained, dataset_of, trained_on
from hfgen.hub.contents import contents
from hfgen.pipeline import HFGenPipeline
from hfgen.registry import get_family
from hfgen.results.protocol import GENERAL, Protocol, read_protocol
from hfgen.run_folder import read_environment, read_metrics
from hfgen.training import run


def photos(folder, count=20):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = (random.random((16, 16)) < 0.3).astype(np.uint8) * 255
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds `photos` and a run that kept a quarter of them from its training, named by short paths."""
    folder = tmp_path_factory.mktemp("home")
    photos(folder / "photos")
    settings = {"validation_fraction": 0.25, "seed": 3, "validation_steps": 2, "max_train_steps": 2}
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(run, "plot_run", lambda *_: None)
        run.train(
            config_of("photos", "vae", best_metric="nats", **settings),
            get_family("vae").load(),
            folder / "run",
            said.append,
        )
    (folder / "said.txt").write_text("\n".join(said))
    return folder


@pytest.mark.whole
def test_a_run_remembers_its_part_and_is_measured_on_it_from_any_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # another one than that of the training
    assert "photos: 15 images to train on and 5 held out" in (place / "said.txt").read_text()
    assert yaml.safe_load((place / "run" / "config.yaml").read_text())["dataset_name"] == str(place / "photos")
    assert read_environment(place / "run")["data"]["count"] == 15
    for target in (place / "run", place / "run" / "best", place / "run" / "checkpoints" / "checkpoint-2"):
        pipeline = HFGenPipeline.from_pretrained(target)
        plan = plan_evaluation(str(target), pipeline, Asked(metrics="nats"))
        assert (plan.split, len(plan.real.items), len(plan.train)) == ("held_out", 5, 15)
        whole = {*plan.real.items.rows.tolist(), *plan.train.rows.tolist()}
        assert whole == set(range(20))
        if target.parent.name != "checkpoints":  # whose networks are not averaged
            nats = float(log_likelihood(pipeline, plan.real.items).nats.mean())
            assert nats == pytest.approx(read_metrics(place / "run")[-1]["validation_nats"], rel=1e-5)
    elsewhere = plan_evaluation(
        str(place / "run"), pipeline, Asked(dataset_name=str(place / "photos" / ".." / "photos"))
    )
    assert elsewhere.split == "held_out"


@pytest.mark.whole
def test_the_place_of_the_data_stays_local(place):
    files = contents(place / "run")
    assert yaml.safe_load(files["config.yaml"])["dataset_name"] == "photos"
    for name, content in files.items():
        if not name.endswith((".png", ".safetensors")):
            text = content.decode() if isinstance(content, bytes) else content.read_text()
            assert str(place) not in text, name


@pytest.mark.whole
def test_data_that_changed_since_are_refused(place, tmp_path):
    trained = trained_on(str(place / "run"))
    photos(tmp_path / "more", 24)
    moved = Trained({**trained.config, "dataset_name": str(tmp_path / "more")}, trained.facts)
    with pytest.raises(UsageError, match="is no longer as it was at the training"):
        Data(str(tmp_path / "more"), None, moved).reference("held_out")
    photos(tmp_path / "same")
    moved = Trained({**trained.config, "dataset_name": str(tmp_path / "same")}, trained.facts)
    assert len(Data(str(tmp_path / "same"), None, moved).reference(None)[1]) == 5


@pytest.mark.whole
def test_a_split_test_is_preferred_and_a_part_that_was_not_held_out_is_refused(tmp_path):
    name = "mnist-mini"
    trained = Trained({"dataset_name": name, "validation_fraction": 0.1, "seed": 0}, {})
    assert Data(name, None, trained).reference(None)[0] == "test"
    for data in (Data(name, None, None), Data(name, None, Trained({"dataset_name": name}))):
        with pytest.raises(UsageError, match="No part of mnist-mini was held out"):
            data.reference("held_out")
    photos(tmp_path / "photos", 3)
    with pytest.raises(UsageError, match="no part was held out in training(?s:.*)--validation_fraction 0.1"):
        Data(str(tmp_path / "photos")).reference(None)


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        ({"dataset_name": "photos"}, {"dataset_id": None}),  # as a published run says it
        ({"train_data_dir": "/nowhere/photos"}, {}),
        ({"dataset_name": "faces.npz"}, {}),
    ],
)
def test_no_hub_is_asked_for_local_data(config, facts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"trained on local data, \S+, which are not here.\nSay where they are"):
        dataset_of(Trained(config, facts), read_protocol(GENERAL))


def test_a_dataset_is_that_of_the_training_or_of_the_protocol(monkeypatch, tmp_path):
    monkeypatch.chdir(photos(tmp_path / "photos", 1).parent)
    protocol = Protocol(name="x", dataset="org/name", extractor=None)
    of_hub = Trained({"dataset_name": "org/other"}, {"dataset_id": "org/other"})
    assert dataset_of(Trained(), protocol) == dataset_of(of_hub, protocol) == "org/name"
    assert dataset_of(of_hub, None) == "org/other"
    assert dataset_of(Trained({"dataset_name": "photos"}, {"dataset_id": None}), protocol) == "photos"
    assert dataset_of(Trained({"dataset_name": next(iter(BUILT_IN_FOLDERS))}), protocol) in BUILT_IN_FOLDERS
    with pytest.raises(UsageError, match="does not record what it was trained on"):
        dataset_of(Trained(), None)
