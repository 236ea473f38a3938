"""Features of sampled images: the same in any batches and processes, and after a kill."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from measuring import evaluate, the_file

from hfgen import HFGenPipeline
from hfgen.errors import CheckError, UsageError
from hfgen.evaluation import drawn_features
from hfgen.testing.processes import run_two_processes
from hfgen_extractors.digitnet import DigitNet
from hfgen_image import drawn_bytes


def test_the_same_images_whatever_the_batch(gan, few):
    """Value by value those of images drawn otherwise: the protocol's batches are nothing to the features."""
    pipeline, extractor = HFGenPipeline.from_pretrained(gan), DigitNet.load()
    one = drawn_features.draw_features(pipeline, extractor, range(3, 40), 16)
    images = [np.asarray(image) for seed in range(3, 40) for image in pipeline(seeds=[seed]).images]
    direct = extractor.extract(torch.from_numpy(np.stack(images))[:, None])
    torch.testing.assert_close(one.features, direct, atol=0.05, rtol=0)  # a pixel may round the other way
    assert (one.features - direct).abs().median() < 1e-6


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_find_the_same(gan, few, tmp_path, count, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [gan, "--protocol", few, "--metrics", "fid,kid,network_evaluations"]
    torch.set_num_threads(1)
    evaluate(*words, "--output_dir", tmp_path / "one")
    several = ["evaluate", *map(str, words), "--output_dir", str(tmp_path / "several"), "--num_processes", str(count)]
    if count == 2:
        run_two_processes("import sys; from hfgen.commands.main import main; main(sys.argv[2:])", several, tmp_path)
    else:  # by the launcher
        subprocess.run([sys.executable, "-m", "hfgen", *several], check=True, timeout=200)
    one, other = (json.loads(the_file(tmp_path / which).read_text())["values"] for which in ("one", "several"))
    assert {name: v["value"] for name, v in one.items()} == pytest.approx(
        {n: v["value"] for n, v in other.items()}, 1e-9
    )


def test_a_killed_evaluation_goes_on(gan, few, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_features, "SAVED_EVERY", 0.0)
    drawn = []

    def draw_bytes(pipeline, seeds, options, original=drawn_bytes.draw_bytes):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(list(seeds))
        return original(pipeline, seeds, options)

    monkeypatch.setattr(drawn_bytes, "draw_bytes", draw_bytes)
    words = [gan, "--protocol", few, "--metrics", "fid", "--output_dir", tmp_path / "a"]
    with pytest.raises((KeyboardInterrupt, SystemExit, Exception)):
        evaluate(*words)
    assert the_file(tmp_path / "a").name.startswith(".few-digitnet-mnist-seed0-")
    drawn[:] = drawn[:-1][:0]
    monkeypatch.setattr(drawn_bytes, "draw_bytes", lambda *a: _noted(drawn, *a))
    evaluate(*words)
    assert drawn[0][0] == 48
    assert sum(map(len, drawn)) == 103 - 48
    evaluate(*words[:-1], tmp_path / "b")
    one, other = (json.loads(the_file(tmp_path / which).read_text())["values"] for which in "ab")
    assert one == other


def _noted(drawn, pipeline, seeds, options):
    drawn.append(list(seeds))
    images = pipeline(seeds=seeds, output_type="pt", **options).images
    return (images * 255).round().to(torch.uint8)


def test_what_was_drawn_of_another_model_is_not_used(gan, tmp_path):
    path = tmp_path / "x.safetensors"
    drawn_features._save(drawn_features.Sampled(torch.ones(16, 64)), path, "one model")
    assert drawn_features._read(path, "one model") is not None
    assert drawn_features._read(path, "another") is None
    path.write_bytes(path.read_bytes()[:50])
    assert drawn_features._read(path, "one model") is None


def test_an_evaluation_that_was_killed_after_the_last_image(gan, tmp_path):
    """What was drawn is whole, though its last batch is not."""
    pipeline, extractor = HFGenPipeline.from_pretrained(gan), DigitNet.load()
    whole = drawn_features.draw_features(pipeline, extractor, range(19), 8)
    for count in (19, 16):
        part = drawn_features.Sampled(whole.features[:count].clone())
        drawn_features._save(part, tmp_path / "x", "me")
        again = drawn_features.draw_features(pipeline, extractor, range(19), 8, partial=tmp_path / "x", identity="me")
        assert torch.equal(again.features, whole.features)


class Drawing:
    """What `draw_bytes` asks of a pipeline that is of no family."""

    components = {}

    def __init__(self, value):
        self.value = value

    def __call__(self, batch_size=1, generator=None, output_type="pil"):
        images = np.full((batch_size, 28, 28, 1), self.value, dtype=np.float32)
        return type("Output", (), {"images": images})


@pytest.mark.parametrize("value", [-1.0, 1.5, float("nan")])
def test_pixels_out_of_range_are_no_images(value):
    with pytest.raises(CheckError, match="outside \\[0, 1\\]"):
        drawn_bytes.draw_bytes(Drawing(value), [0, 1], {})


def test_a_pipeline_that_draws_from_words():
    class Words:
        def __call__(self, prompt, batch_size=1, generator=None): ...

    with pytest.raises(UsageError, match="it wants prompt"):
        drawn_bytes.draw_bytes(Words(), [0], {})
