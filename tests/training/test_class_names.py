"""The numbers of classes outlive the order in which data name them: evaluate, resuming, training further."""

import json

import numpy as np
import pytest
import torch
from tiny_trainings import config_of

from hfgen.data.class_names import aligned
from hfgen.data.load import load_images
from hfgen.errors import UsageError
from hfgen.evaluation.evaluate import Asked, plan_evaluation
from hfgen.evaluation.likelihoods import log_likelihood
from hfgen.pipeline import HFGenPipeline
from hfgen.registry import get_family, get_modality
from hfgen.run_folder import class_names
from hfgen.training import run
from hfgen.training.start import find_data, find_held_out

IMAGES = get_modality("image")

X = np.random.default_rng(0).integers(0, 256, (16, 16, 16), dtype=np.uint8)


def write(path, words, test=("dog", "cat")):
    np.savez(path, x_train=X, y_train=np.array(words)[np.arange(16) % len(words)], x_test=X[:8], y_test=[*test] * 4)
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a dataset, whose split test has other classes first, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("home")
    data = write(folder / "a.npz", ["cat", "dog", "owl"], test=("owl", "cat"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "plot_run", lambda *_: None)
        config = config_of(data, "vae", class_conditional=True, max_train_steps=1)
        run.train(config, get_family("vae").load(), folder / "run", lambda *_: None)
    return folder


@pytest.mark.whole
def test_a_run_remembers_the_names_and_evaluate_numbers_as_it_did(place):
    assert class_names(place / "run") == ["cat", "dog", "owl"]
    assert class_names(place / "run" / "checkpoints" / "checkpoint-1") == ["cat", "dog", "owl"]
    pipeline = HFGenPipeline.from_pretrained(place / "run")
    assert load_images(str(place / "a.npz"), split="test").labels.tolist() == [1, 0] * 4
    asked = Asked(metrics="nats", dataset_name=str(place / "a.npz"))
    assert plan_evaluation(str(place / "run"), pipeline, asked).real.items.labels.tolist() == [2, 0] * 4
    other = write(place / "other.npz", ["cat", "dog"], test=("fox", "cat"))
    with pytest.raises(UsageError, match="does not have: fox"):
        plan_evaluation(str(place / "run"), pipeline, Asked(metrics="nats", dataset_name=other))


@pytest.mark.whole
def test_a_resumed_run_keeps_its_numbers(place):
    config = config_of(str(place / "a.npz"), "vae", class_conditional=True, resume_from_checkpoint="latest")
    environment = json.loads((place / "run" / "env.json").read_text())
    environment["data"]["class_names"] = ["owl", "dog", "cat"]
    (place / "older").mkdir()
    (place / "older" / "env.json").write_text(json.dumps(environment))
    assert find_data(config, IMAGES, place / "run").labels[:3].tolist() == [0, 1, 2]
    assert find_data(config, IMAGES, place / "older").labels[:3].tolist() == [2, 1, 0]
    (place / "older" / "env.json").write_text("")
    assert find_data(config, IMAGES, place / "older").labels[:3].tolist() == [0, 1, 2]


def test_validation_images_and_training_further_are_numbered_by_name(place):
    config = config_of(str(place / "a.npz"), "vae", class_conditional=True, validation_split="test")
    pipeline = HFGenPipeline.from_pretrained(place / "run")
    held_out = find_held_out(config, pipeline, find_data(config, IMAGES))
    assert held_out.items.labels.tolist() == [2, 0] * 4
    settings = {"class_conditional": True, "pretrained_model_name_or_path": str(place / "run")}
    assert find_data(config_of(str(place / "a.npz"), "vae", **settings), IMAGES).label_names == ["cat", "dog", "owl"]


def test_images_without_a_class_are_left_out_or_refused(place):
    labels = np.array([0, -1, 1, 2] * 4)
    np.savez(place / "some.npz", x_train=X, y_train=labels)
    config = config_of(str(place / "some.npz"), "vae", class_conditional=True, unlabeled="skip")
    images = find_data(config, IMAGES)
    assert (len(images), images.labels.tolist()) == (12, [0, 1, 2] * 4)
    pipeline = HFGenPipeline.from_pretrained(place / "run")
    some = aligned(load_images(str(place / "some.npz")), None, 3)
    with pytest.raises(UsageError, match="4 of 16 images have no label in 'y_train'.*the model needs one"):
        log_likelihood(pipeline, some)
    assert torch.isfinite(log_likelihood(pipeline, some.labeled()).nats).all()


@pytest.mark.parametrize("settings", [{}, {"class_conditional": True, "streaming": True}])
def test_an_option_that_would_do_nothing_is_refused(settings):
    with pytest.raises(UsageError, match="--unlabeled skip"):
        config_of("a.npz", "vae", unlabeled="skip", **settings)
