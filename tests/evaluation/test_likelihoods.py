"""The log-likelihood of a dataset: any part of it can be repeated, and only options that a family takes are taken."""

import pytest
import torch

from hfgen import load_images
from hfgen.errors import UsageError
from hfgen.evaluation import likelihoods
from hfgen.registry import get_family
from hfgen.testing import make_data

OPTIONS = {"likelihood.class_name": "BernoulliLikelihood", "encoder.base_channels": 4, "decoder.base_channels": 4}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_images(str(make_data(tmp_path_factory.mktemp("data") / "blobs.npz", 8, 1, count=12)))


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return get_family("vae").load().build(8, 1, **OPTIONS)


def test_any_part_can_be_measured_again(pipeline, images, monkeypatch):
    whole = likelihoods.log_likelihood(pipeline, images, num_importance_samples=3)
    assert (len(whole.nats), whole.num_importance_samples, whole.num_values) == (12, 3, 2)
    part = likelihoods.log_likelihood(pipeline, images, [7, 2], num_importance_samples=3)
    torch.testing.assert_close(part.nats, whole.nats[[7, 2]], atol=1e-4, rtol=0)
    monkeypatch.setattr(likelihoods, "BATCH", 5)
    in_fives = likelihoods.log_likelihood(pipeline, images, num_importance_samples=3)
    torch.testing.assert_close(in_fives.nats, whole.nats, atol=1e-4, rtol=0)


def test_options_that_the_family_does_not_take(pipeline, images):
    with pytest.raises(UsageError, match="log_likelihood takes no num_samples"):
        likelihoods.log_likelihood(pipeline, images, num_samples=3)


def test_a_family_without_a_likelihood(images):
    gan = get_family("dcgan").load().build(8, 1, **{"generator.base_channels": 4, "discriminator.base_channels": 4})
    with pytest.raises(UsageError, match="has no log_likelihood"):
        likelihoods.log_likelihood(gan, images)
