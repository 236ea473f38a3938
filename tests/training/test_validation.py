"""Validation: the best model, an early stop, metrics that can and cannot be measured."""

import json

import pytest
from PIL import Image
from tiny_trainings import config_of

from hfgen import HFGenPipeline
from hfgen.data.images import decode_images
from hfgen.data.load import load_images
from hfgen.errors import UsageError
from hfgen.evaluation import likelihoods
from hfgen.registry import get_family
from hfgen.run_folder import read_metrics
from hfgen.settings.arguments import TrainingArguments
from hfgen.testing import assert_equal_states
from hfgen.training import checkpoint, run
from hfgen.training.best import Best


def test_the_best_of_a_metric_and_when_to_give_up():
    best = Best("bits_per_dim", patience=2)
    for step, value, better, hopeless in ((1, 3.0, True, False), (2, 3.5, False, False), (3, 2.9, True, False)):
        found = {"validation_bits_per_dim": value}
        assert best.would_be(found) is better
        best.take(step, found)
        assert best.is_hopeless is hopeless
    for step in (4, 5):
        best.take(step, {"validation_bits_per_dim": 2.9})
    assert (best.step, best.value, best.is_hopeless) == (3, 2.9, True)
    greater = Best("nats", None)
    greater.take(1, {"validation_nats": -5.0})
    assert greater.would_be({"validation_nats": -4.0})


@pytest.mark.parametrize(
    ("changed", "afresh"),
    [
        ({}, False),
        ({"best_metric": "nats"}, True),
        ({"validation_split": "val"}, True),
        ({"num_evaluation_images": 9}, True),
        ({"extractor": "digitnet-mnist"}, False),  # which a likelihood does not ask
        ({"early_stopping_patience": 9}, False),
    ],
)
def test_a_value_that_was_measured_otherwise_is_no_best(changed, afresh):
    settings = {"validation_split": "test", "best_metric": "bits_per_dim", "early_stopping_patience": 2}
    before, after = Best.of(TrainingArguments(**settings)), Best.of(TrainingArguments(**settings | changed))
    before.take(3, {"validation_bits_per_dim": 3.2})
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert (after.value, after.step) == ((None, 0) if afresh else (3.2, 3))


def test_early_stop_keeps_the_best_model(make_on_splits, tmp_path):
    """A learning rate at which validations become worse and worse: it ends two after the best."""
    settings = {"validation_split": "test", "best_metric": "bits_per_dim", "early_stopping_patience": 2}
    much = {"max_train_steps": 100, "validation_steps": 1, "learning_rate": 3.0}
    trainer = make_on_splits(tmp_path / "run", "vae", True, **settings, **much)
    trainer.train()
    lines = read_metrics(tmp_path / "run")
    values = [line["validation_bits_per_dim"] for line in lines]
    assert len(lines) == trainer.step == trainer.best.step + 2
    assert min(values) == trainer.best.value == values[trainer.best.step - 1]
    assert checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "run")[-1]) == trainer.step
    best = HFGenPipeline.from_pretrained(tmp_path / "run" / "best")
    found = likelihoods.log_likelihood(best, load_images(trainer.batches.facts.name, split="test"))
    assert float(found.bits_per_dim.mean()) == pytest.approx(trainer.best.value, rel=1e-6)
    for patience, last in ((2, trainer.step), (3, 100)):  # which was hopeless, and is so as long as it waits no longer
        again = make_on_splits(
            tmp_path / "run", "vae", True, **settings | {"early_stopping_patience": patience}, **much
        )
        again.resume(checkpoint.find_checkpoint("latest", tmp_path / "run"))
        assert (again.step, again.last_step) == (trainer.step, last)


def test_measuring_changes_nothing(make_on_splits, tmp_path):
    """Bit for bit, with and without a validation split, grids and trackers."""
    often = make_on_splits(tmp_path / "a", "vae", True, validation_split="test", validation_steps=1)
    never = make_on_splits(tmp_path / "b", "vae", validation_steps=0)
    often.train()
    never.train()
    assert_equal_states(often, never)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("dcgan", {"validation_split": "test"}, "has no likelihood .*\n.*--validation_metrics fid"),
        (
            "vae",
            {"validation_split": "test", "best_metric": "bits"},
            "which is not measured of vae. Known: bits_per_dim, nats",
        ),
        (
            "dcgan",
            {"validation_split": "test", "validation_metrics": "fid"},
            "no protocol is about this dataset.\nName one: --extractor",
        ),
        (
            "dcgan",
            {"validation_split": "test", "validation_metrics": "fid", "extractor": "digitnet-mnist"},
            "takes images of 1 channel and 28x28",
        ),
        ("dcgan", {"validation_metrics": "fid"}, "are measured on --validation_split"),
        ("dcgan", {"validation_split": "test", "validation_metrics": "nats"}, "nats cannot be measured"),
        ("vae", {"validation_split": "tset"}, "has no split 'tset'"),
        (
            "vae",
            {"validation_split": "test", "best_metric": "bits_per_dim", "likelihood": "GaussianLikelihood"},
            "'bits_per_dim', which is not measured of vae.\nIts likelihood is a density",
        ),
        (
            "vae",
            {"validation_split": "test", "validation_metrics": "bits_per_dim", "likelihood": "GaussianLikelihood"},
            "bits_per_dim cannot be measured of this model here; these can:\n .* coverage, nats$",
        ),
        ("vae", {"best_metric": "nats"}, "is measured on --validation_split"),
        ("vae", {"early_stopping_patience": 3}, "give it too"),
    ],
)
@pytest.mark.whole
def test_what_cannot_be_measured_is_said_at_the_start(splits, tmp_path, family, settings, message):
    with pytest.raises(UsageError, match=message):
        run.train(config_of(splits, family, **settings), get_family(family).load(), tmp_path / "run", say=print)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("crop", [True, False])
def test_what_is_held_out_is_brought_to_the_size_that_is_trained_on(splits, make_on_splits, tmp_path, crop):
    for split in ("train", "test"):
        for file in (tmp_path / "data" / split).iterdir():
            Image.open(file).resize((16, 12)).save(file)
    settings = {"validation_split": "test", "resolution": 8, "center_crop": crop, "validation_steps": 6}
    config = config_of(splits, "vae", **settings)
    run.train(config, get_family("vae").load(), tmp_path / "run", say=print)
    images = load_images(splits, "test")
    model, pixels = HFGenPipeline.from_pretrained(tmp_path / "run"), decode_images(images, 8, crop)
    found = likelihoods.log_likelihood(model, images, stored=pixels)
    logged = read_metrics(tmp_path / "run")[-1]["validation_bits_per_dim"]
    assert logged == pytest.approx(float(found.bits_per_dim.mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "side", "message"),
    [
        ("RGB", 16, "--validation_split has images of mode RGB, and the training images are of L"),
        ("L", 8, "has images of 8 pixels a side, and the training images have 16.\nResize both: --resolution 16"),
    ],
)
@pytest.mark.whole
def test_other_images_than_those_that_are_trained_on_are_refused(splits, tmp_path, mode, side, message):
    for file in (tmp_path / "data" / "test").iterdir():
        Image.open(file).convert(mode).resize((side, side)).save(file)
    config = config_of(splits, "vae", validation_split="test")
    with pytest.raises(UsageError, match=message):
        run.train(config, get_family("vae").load(), tmp_path / "run", say=print)
    assert not (tmp_path / "run").exists()
