"""A result names only the options that its metrics used."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from toy.drawn_family import DrawnPipeline

from hfgen.errors import UsageError
from hfgen.evaluation.evaluate import Asked, Evaluation, Sampling
from hfgen.evaluation.measure import reconstruction_options
from hfgen.evaluation.parts import part_of, parts
from hfgen.evaluation.real import Real
from hfgen.registry import get_family

CHANGED = {"scheduler": "ddim"}
METRICS = ["fid", "nats", "reconstruction_mse", "seconds_per_image", "parameters"]


@pytest.fixture(scope="module")
def ddpm():
    return get_family("ddpm").load().__new__(get_family("ddpm").load())


def test_each_metric_is_beside_the_options_that_it_uses(ddpm):
    likelihood = {"num_timesteps": 3}
    ways = [Sampling({"num_inference_steps": n, "eta": 0.5}, likelihood, CHANGED) for n in (2, 3)]
    sampled = ["fid", "seconds_per_image", "parameters"]
    assert parts(ddpm, METRICS, ways) == [
        (Sampling({"num_inference_steps": 2, "eta": 0.5}, {}, CHANGED), sampled),
        (Sampling({}, likelihood, CHANGED), ["nats"]),
        (Sampling({"num_inference_steps": 2}, {}, CHANGED), ["reconstruction_mse"]),
        (Sampling({"num_inference_steps": 3, "eta": 0.5}, {}, CHANGED), sampled),
        (Sampling({"num_inference_steps": 3}, {}, CHANGED), ["reconstruction_mse"]),
    ]


def test_without_options_there_is_one_result(ddpm):
    [(way, names)] = parts(ddpm, METRICS, [Sampling({}, {}, CHANGED)])
    assert (way, names) == (Sampling({}, {}, CHANGED), METRICS)
    assert parts(ddpm, ["parameters"], [Sampling()]) == [(Sampling(), ["parameters"])]


@pytest.mark.parametrize("metrics", [["nats"], ["nats", "parameters"], ["reconstruction_mse"]])
def test_an_option_that_nothing_uses_is_refused(ddpm, metrics):
    with pytest.raises(UsageError, match="--guidance_scale: no metric uses it; it is an option of sampling, and"):
        parts(ddpm, metrics, [Sampling({"guidance_scale": 2.0})])


def test_a_reconstruction_takes_what_both_of_its_ways_take():
    class Own(DrawnPipeline):
        def reconstruct(self, images, class_labels=None, seeds=None, num_passes: int = 1): ...

    assert reconstruction_options(get_family("ddpm").load()) == {"num_inference_steps"}
    assert reconstruction_options(DrawnPipeline) == set()  # its `decode` takes a shift, its `encode` none
    assert reconstruction_options(Own) == {"num_passes"}
    assert reconstruction_options(object) == set()


def test_a_part_of_a_plan_names_its_metrics_and_no_extractor_that_it_did_not_use():
    real = Real([1], [2], "b", extractor="network", train_sha256="a")
    plan = Evaluation(Asked(), None, None, "test", METRICS, real, None)
    assert part_of(plan, METRICS) is plan
    part = part_of(plan, ["nats"])
    assert part == replace(plan, metrics=["nats"], real=Real([1], [2], "b"), asked=Asked(metrics="nats"))
    assert part_of(plan, ["fid"]).real is real


def test_what_diffusers_own_pipelines_reconstruct_is_nothing():
    assert parts(SimpleNamespace(), ["fid"], [Sampling({"eta": 1})]) == [(Sampling({"eta": 1}), ["fid"])]
