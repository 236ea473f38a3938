"""`hfgen evaluate` of a modality that is none of hfgen's own: points of the plane."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from measuring import evaluate
from plugin_site import install, on_path

from hfgen.errors import UsageError
from hfgen.evaluation.record import LIBRARIES
from hfgen.registry import MODALITIES, get_family
from hfgen.results.metrics import COSTS, METRICS, QUALITY
from hfgen.results.protocol import Protocol, differing_fields, general, read_protocol
from hfgen.results.records import read_results

SOURCE = (Path(__file__).parents[1] / "helpers" / "toy" / "toy_points.py").read_text(encoding="utf-8")
VALUES = ["mean_distance", "new_points", "nats", "network_evaluations", "seconds_per_point", "parameters"]


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """The folder of a saved Gaussian, and that of the points to compare it with."""
    site = tmp_path_factory.mktemp("site")
    install(site, "gaussian-plugin", {"gaussian": "toy_points:GaussianPipeline"}, {"toy_points": SOURCE})
    install(site, "points-plugin", {"point": "toy_points:PointModality"}, {}, group=MODALITIES)
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        np.save(site / f"{split}.npy", random.normal(0, 0.5, (40, 2)))
    with on_path(site):
        importlib.import_module("toy_points")
        get_family("gaussian").load().build(2, 1).save_pretrained(site / "model")
        yield site


def test_metrics_are_those_of_all_modalities(points):
    assert [name for name in METRICS if name in VALUES] == VALUES
    assert "mean_distance" in QUALITY
    assert "seconds_per_point" in COSTS
    assert "fid" in METRICS
    assert "block" not in METRICS


def test_a_result_of_points_speaks_of_no_image(points, tmp_path, capsys):
    words = ["--dataset_name", points, "-n", 16, "--output_dir", tmp_path]
    evaluate(points / "model", *words, "--json")
    [result] = json.loads(capsys.readouterr().out)
    assert list(result["values"]) == VALUES
    assert result["values"]["network_evaluations"]["value"] == 1
    assert 0 < result["floor"]["mean_distance"]["value"] < 500
    assert result["protocol"]["modality"] == "point"
    assert not {"resolution", "center_crop", "extractor", "bootstraps", "quantization"} & set(result["protocol"])
    assert result["extractor"] is None
    assert result["likelihood"] == {
        **{"kind": "exact", "method": None, "num_importance_samples": None, "num_dimensions": 2, "num_values": None},
        "images": 40,
    }
    values = torch.from_numpy(np.load(points / "test.npy")).float().mul(1000).round().double() / 500
    expected = float((-values.square() / 2).sum(1).mean()) - 2 * np.log(0.5) - np.log(2 * np.pi)
    assert result["values"]["nats"]["value"] == pytest.approx(expected, abs=1e-5)
    [read] = read_results(tmp_path)
    assert read.warning is None
    assert set(read.versions) == set(LIBRARIES)
    evaluate(points / "model", *words[:3], 5, *words[4:], "--metrics", "mean_distance", "--json")
    assert json.loads(capsys.readouterr().out)[0]["warning"] == "points are few"


def test_options_and_protocols_of_images_are_refused(points, tmp_path):
    words = [points / "model", "--dataset_name", points, "--output_dir", tmp_path]
    with pytest.raises(UsageError, match="--resolution: a measurement of points has no such option"):
        evaluate(*words, "--resolution", 8)
    with pytest.raises(UsageError, match="a protocol of another modality: image, and the model's is point"):
        evaluate(*words, "--protocol", "mnist-v1")
    with pytest.raises(UsageError, match="fid cannot be measured of this model here|fid compares an extractor's"):
        evaluate(*words, "--metrics", "fid")


def test_a_protocol_of_points_has_their_options(points, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("name: grid\nmodality: point\ngrain: 0.01\n")
    protocol = read_protocol(str(path))
    assert protocol.options == {"grain": 0.01}
    assert Protocol.of(**protocol.to_dict()) == protocol
    assert "resolution" not in protocol.to_dict()
    assert "modality" not in read_protocol("mnist-v1").to_dict()
    assert set(differing_fields(protocol.to_dict(), general("point").to_dict())) == {"name", "grain"} | (
        {"num_images"} if protocol.num_images != general().num_images else set()
    )
    path.write_text("name: grid\nmodality: point\nresolution: 8\n")
    with pytest.raises(UsageError, match="unknown key 'resolution'"):
        read_protocol(str(path))
