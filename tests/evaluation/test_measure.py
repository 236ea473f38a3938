"""`hfgen evaluate`: one protocol for every family; the scale of its values; what it records, refuses and resumes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hfgen import HFGenPipeline, load_images
from hfgen.commands.main import cli
from hfgen.errors import CheckError, LoadError, UsageError
from hfgen.evaluation import drawn_features
from hfgen.evaluation.real_images import RealImages, features_of, pixels_sha256
from hfgen.evaluation.record import weights_sha256
from hfgen.evaluation.sample_metrics import authenticity, fid, kid, manifold
from hfgen.registry import get_family
from hfgen.results.metrics import METRICS, chosen
from hfgen.results.protocol import Protocol, differing_fields, protocol_of, read_protocol
from hfgen.run_folder import read_metrics
from hfgen_extractors.digitnet import DigitNet

TINY = {"generator.base_channels": 4, "discriminator.base_channels": 4}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Features of real images are kept, but for this module alone."""
    from hfgen.evaluation import real_images

    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache")
    patch.setattr(real_images, "cache_folder", lambda: folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "gan"
    get_family("dcgan").load().build(28, 1, **TINY).save_pretrained(folder)
    return folder


def the_file(folder):
    """The only file in evaluation/."""
    (path,) = (folder / "evaluation").iterdir()
    return path


def evaluate(*words):
    cli.main(["evaluate", *map(str, words)], standalone_mode=False)


# --- the scale ------------------------------------------------------------------------------------------------------


def corruptions(images, labels):
    """As reference images are spoilt: each by a name, in the order in which FID must rate them."""
    rng = np.random.default_rng(0)
    noisy = (images + rng.normal(0, 0.2 * 255, images.shape)).clip(0, 255).round()
    return {
        "copies": images,
        "no class 8": images[labels != 8],
        "blur .7": gaussian_filter(images, (0, 0, 0.7, 0.7)).round(),
        "noise .2": noisy,
        "blur 1": gaussian_filter(images, (0, 0, 1, 1)).round(),
        "only class 1": images[labels == 1],
        "uniform noise": rng.integers(0, 256, images.shape),
        "black": 0 * images,
    }


def test_the_scale():
    extractor = DigitNet.load()
    real_images = load_images("mnist-mini", "test")
    real = features_of(RealImages.of(real_images), extractor)
    train = load_images("mnist-mini", "train")
    rows = list(range(0, 10_000, 5))
    images = ((train.tensor(rows) + 1) * 127.5).round().numpy().astype(np.float64)
    fakes = corruptions(images, train.labels[rows].numpy())
    features = {name: extractor.extract(torch.from_numpy(x).to(torch.uint8)) for name, x in fakes.items()}
    values = [fid(real, x).value for x in features.values()]
    assert values == sorted(values), dict(zip(features, values, strict=True))
    golden = {"copies": 0.9394, "no class 8": 2.116, "blur .7": 10.62, "noise .2": 14.11, "uniform noise": 116.3}
    found = dict(zip(features, values, strict=True))
    assert {name: found[name] for name in golden} == pytest.approx(golden, rel=0.01)  # of the shipped weights
    assert kid(real, features["blur .7"], 500).value == pytest.approx(0.4838, rel=0.01)
    assert values[2] > 5 * values[0]
    assert kid(real, features["copies"], 500).value < kid(real, features["no class 8"], 500).value
    repeated = features["copies"][:20].repeat(100, 1)
    found = manifold(real, repeated, 5, 2000)
    assert found["coverage"].value < 0.2
    assert found["recall"].value < 0.01
    assert authenticity(features["copies"], features["copies"]).value == 0
    assert authenticity(features["copies"], real).value > 0.5


def test_geometry_matters_more_than_many_models():
    """Padding and cropping changes nothing; there and back by bilinear resizing is worse than a fair blur."""
    extractor = DigitNet.load()
    pixels = RealImages.of(load_images("mnist-mini", "test")).pixels
    real = extractor.extract(pixels)
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))[..., 2:-2, 2:-2]
    assert fid(real, extractor.extract(padded.contiguous())).value == pytest.approx(0, abs=1e-6)
    bigger = torch.nn.functional.interpolate(pixels.float(), (32, 32), mode="bilinear", antialias=True)
    back = torch.nn.functional.interpolate(bigger, (28, 28), mode="bilinear", antialias=True)
    assert fid(real, extractor.extract(back.round().to(torch.uint8))).value > 2


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_result_says_what_number_it_is(gan, few, tmp_path, capsys):
    evaluate(gan, "--protocol", few, "--output_dir", tmp_path, "--json")
    result = json.loads(capsys.readouterr().out)[0]
    (written,) = (tmp_path / "evaluation").iterdir()
    assert re.fullmatch(r"few-digitnet-mnist-seed0-[0-9a-f]{8}.json", written.name)
    assert json.loads(written.read_text(), parse_constant=pytest.fail) == result
    assert list(result["values"]) == [n for n in METRICS if METRICS[n].of_samples or n in ("parameters", *COSTS)]
    assert all(type(v["value"]) is float for v in result["values"].values())
    assert result["values"]["network_evaluations"]["value"] == 1
    assert result["values"]["fid"]["value"] > 3 * result["floor"]["fid"]["value"]
    assert result["values"]["fid"]["error_of"] == "5 bootstraps of the drawn images"
    assert result["reference"]["sha256"] == result["protocol"]["reference_sha256"]
    assert result["extractor"]["weights_sha256"] == DigitNet.load().weights_sha256
    assert result["model"]["weights_sha256"] == weights_sha256(HFGenPipeline.from_pretrained(gan))
    assert "too few" in result["warning"]
    assert str(gan) not in written.read_text()
    assert not list((tmp_path / "evaluation").glob(".*"))


COSTS = ("network_evaluations", "seconds_per_image")


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
    several = [sys.executable, "-m", "hfgen", "evaluate", *words, "--output_dir", tmp_path / "several"]
    subprocess.run([*map(str, several), "--num_processes", str(count)], check=True, timeout=200)
    one, other = (json.loads(the_file(tmp_path / which).read_text())["values"] for which in ("one", "several"))
    assert {name: v["value"] for name, v in one.items()} == pytest.approx(
        {n: v["value"] for n, v in other.items()}, 1e-9
    )


def test_a_killed_evaluation_goes_on(gan, few, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_features, "SAVED_EVERY", 0.0)
    drawn = []

    def draw_bytes(pipeline, seeds, options, original=drawn_features.draw_bytes):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(list(seeds))
        return original(pipeline, seeds, options)

    monkeypatch.setattr(drawn_features, "draw_bytes", draw_bytes)
    words = [gan, "--protocol", few, "--metrics", "fid", "--output_dir", tmp_path / "a"]
    with pytest.raises((KeyboardInterrupt, SystemExit, Exception)):
        evaluate(*words)
    assert the_file(tmp_path / "a").name.startswith(".few-digitnet-mnist-seed0-")
    drawn[:] = drawn[:-1][:0]
    monkeypatch.setattr(drawn_features, "draw_bytes", lambda *a, o=drawn_features.draw_bytes: _noted(drawn, *a))
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


def test_results_of_one_kind_join_and_others_stand_beside(gan, few, tmp_path):
    words = [gan, "--protocol", few, "--output_dir", tmp_path]
    evaluate(*words, "--metrics", "fid")
    evaluate(*words, "--metrics", "recall,parameters")
    values = json.loads(the_file(tmp_path).read_text())["values"]
    assert list(values) == ["fid", "recall", "parameters"]
    evaluate(
        gan,
        "--dataset_name",
        read_protocol(few).dataset,
        "--split",
        "train",
        "--extractor",
        "digitnet-mnist",
        "-n",
        20,
        "--metrics",
        "fid,authenticity",
        "--output_dir",
        tmp_path,
    )
    (other,) = (json.loads(p.read_text()) for p in (tmp_path / "evaluation").iterdir() if "general" in p.name)
    assert other["reference"]["split"] == "train"
    assert "the training split holds the same images" in other["warning"]
    assert other["floor"] == {}
    assert "--split train" in other["command"]
    assert str(tmp_path.parent) not in json.dumps(other) + json.dumps(values)


def test_an_evaluation_that_was_killed_after_the_last_image(gan, tmp_path):
    """What was drawn is whole, though its last batch is not."""
    pipeline, extractor = HFGenPipeline.from_pretrained(gan), DigitNet.load()
    whole = drawn_features.draw_features(pipeline, extractor, range(19), 8)
    for count in (19, 16):
        part = drawn_features.Sampled(whole.features[:count].clone())
        drawn_features._save(part, tmp_path / "x", "me")
        again = drawn_features.draw_features(pipeline, extractor, range(19), 8, partial=tmp_path / "x", identity="me")
        assert torch.equal(again.features, whole.features)


def test_a_scheduler_of_infinite_settings(few, tmp_path, capsys):
    torch.manual_seed(0)
    unet = {"block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4}
    unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    get_family("ddpm").load().build(28, 1, unet=unet).save_pretrained(tmp_path / "ddpm")
    words = ["--protocol", few, "-n", 20, "--metrics", "fid", "--scheduler", "dpmsolver", "--num_inference_steps", 3]
    evaluate(tmp_path / "ddpm", *words, "--json")
    result = json.loads(capsys.readouterr().out)[0]
    assert result["sampler"]["config"]["lambda_min_clipped"] == "-inf"
    assert result["changed"] == {"scheduler": "dpmsolver"}


def test_limits(gan, few, tmp_path):
    words = [gan, "--protocol", few, "--metrics", "fid", "--output_dir", tmp_path]
    with pytest.raises(CheckError, match="FID of gan is .*; --max_fid is 1"):
        evaluate(*words, "--max_fid", 1)
    evaluate(*words, "--max_fid", 1000)
    with pytest.raises(UsageError, match="coverage is not measured"):
        evaluate(*words, "--min_coverage", 0.5)
    with pytest.raises(UsageError, match="a number is expected"):
        evaluate(*words, "--max_fid", "nan")


def test_steps_of_a_model_that_samples_in_many(few, tmp_path, capsys):
    torch.manual_seed(0)
    family = get_family("ddpm").load()
    unet = {"block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4}
    unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    family.build(28, 1, unet=unet).save_pretrained(tmp_path / "ddpm")
    steps = ["--num_inference_steps", "2,3", "--timestep_spacing", "trailing"]
    evaluate(tmp_path / "ddpm", "--protocol", few, "-n", 20, *steps, "--json")
    results = json.loads(capsys.readouterr().out)
    assert [r["values"]["network_evaluations"]["value"] for r in results] == [2, 3]
    assert [r["sampler"]["options"] for r in results] == [
        {"timestep_spacing": "trailing", "num_inference_steps": k} for k in (2, 3)
    ]
    assert "bits_per_dim" not in results[0]["values"]  # takes long: measured when it is asked for
    names = {path.name.rpartition("-")[0] for path in (tmp_path / "ddpm" / "evaluation").iterdir()}
    assert names == {f"few-digitnet-mnist-seed0-n20-num_inference_steps{k}-timestep_spacingtrailing" for k in (2, 3)}


def test_likelihood_and_reconstruction_of_a_vae(few, tmp_path, capsys):
    torch.manual_seed(0)
    tiny = {"encoder.base_channels": 4, "decoder.base_channels": 4}
    get_family("vae").load().build(28, 1, **tiny).save_pretrained(tmp_path / "vae")
    names = "nats,bits_per_dim,reconstruction_mse,reconstruction_fid,parameters"
    evaluate(tmp_path / "vae", "--protocol", few, "--metrics", names, "--num_likelihood_images", 20, "--json")
    result = json.loads(capsys.readouterr().out)[0]
    assert set(result["values"]) == set(names.split(","))
    assert result["likelihood"]["kind"] == "lower bound"
    assert result["likelihood"]["images"] == 20
    assert 0.01 < result["values"]["reconstruction_mse"]["value"] < 1
    assert result["values"]["reconstruction_fid"]["value"] > 1


def test_every_metric_is_of_the_size_that_was_asked_for(few, tmp_path, capsys):
    """A model of 14 pixels a side, and images of 28."""
    torch.manual_seed(0)
    tiny = {"encoder.base_channels": 4, "decoder.base_channels": 4}
    get_family("vae").load().build(14, 1, **tiny).save_pretrained(tmp_path)
    words = ["--dataset_name", read_protocol(few).dataset, "--metrics", "nats,reconstruction_mse", "--resolution", 14]
    evaluate(tmp_path, *words, "--no_center_crop", "--num_likelihood_images", 20, "--json")
    result = json.loads(capsys.readouterr().out)[0]
    assert (result["protocol"]["resolution"], result["protocol"]["center_crop"]) == (14, False)
    assert "--resolution 14 --no_center_crop" in result["command"]
    assert result["likelihood"]["num_dimensions"] == 14 * 14
    assert set(result["values"]) == {"nats", "reconstruction_mse"}


def test_a_pipeline_of_diffusers_own(few, tmp_path, capsys):
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(28, 1, 1, layers_per_block=1, norm_num_groups=4, **blocks)
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler()).save_pretrained(tmp_path / "cm")
    evaluate(tmp_path / "cm", "--protocol", few, "-n", 20, "--metrics", "fid,parameters", "--json")
    result = json.loads(capsys.readouterr().out)[0]
    assert result["model"]["pipeline"] == "ConsistencyModelPipeline"
    assert result["values"]["fid"]["value"] > 1
    index = json.loads((tmp_path / "cm" / "model_index.json").read_text())
    index["unet"] = ["os", "system"]
    (tmp_path / "cm" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match="'unet' is of 'os'"):
        evaluate(tmp_path / "cm", "--protocol", few)


def test_what_a_training_logs_is_what_is_evaluated(few, tmp_path, capsys):
    """By the same code, of the saved model and of its checkpoint before."""
    data = read_protocol(few).dataset
    words = ["train", "dcgan", "--dataset_name", data, "--max_train_steps", "4", "--checkpointing_steps", "2"]
    words += ["--validation_steps", "2", "--validation_split", "test", "--validation_metrics", "fid,recall"]
    words += ["--num_evaluation_images", "60", "--extractor", "digitnet-mnist", "--best_metric", "fid"]
    words += ["--generator.base_channels", "4", "--discriminator.base_channels", "4", "--no_use_ema"]
    cli.main([*words, "--output_dir", str(tmp_path / "run")], standalone_mode=False)
    logged = {line["step"]: line for line in read_metrics(tmp_path / "run") if "validation_fid" in line}
    best = min(logged, key=lambda step: logged[step]["validation_fid"])
    options = ["--split", "test", "--extractor", "digitnet-mnist", "-n", 60, "--metrics", "fid,recall", "--json"]
    for step, place in {2: "checkpoints/checkpoint-2", 4: "", best: "best"}.items():
        capsys.readouterr()
        evaluate(tmp_path / "run" / place, "--dataset_name", data, *options, "--output_dir", tmp_path / "out")
        values = json.loads(capsys.readouterr().out)[0]["values"]
        assert values["fid"]["value"] == pytest.approx(logged[step]["validation_fid"], rel=1e-6)
        assert values["recall"]["value"] == logged[step]["validation_recall"]
        assert read_protocol("general-v1").name in next((tmp_path / "out" / "evaluation").iterdir()).name


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "mnist-v2"], "no protocol 'mnist-v2'. Did you mean 'mnist-v1'"),
        (["--protocol", "mnist-v1", "--dataset_name", "DATA"], "not the reference of mnist-v1"),
        (["--dataset_name", "DATA", "--split", "train"], "in whose features"),
        (["--protocol", "FEW", "--metrics", "fdi"], "no metric 'fdi'. Did you mean 'fid'"),
        (["--protocol", "FEW", "--metrics", "nats"], "nats cannot be measured of this model"),
        (["--dataset_name", "DATA", "--split", "train", "--metrics", "fid"], "no protocol .* give --extractor"),
        (["--dataset_name", "DATA", "--extractor", "dinov2-base"], "takes images of 3 channels"),
        (["--protocol", "FEW", "-n", 5], "needs at least 20 images"),
        ([], "give --dataset_name"),
    ],
)
def test_what_cannot_be_measured(gan, few, words, message):
    places = {"DATA": str(Path(few).with_name("data")), "FEW": few}
    words = [places.get(word, word) for word in words]
    with pytest.raises(UsageError, match=message):
        evaluate(gan, *words)


def test_images_of_another_size(few, tmp_path):
    torch.manual_seed(0)
    get_family("dcgan").load().build(32, 1, **TINY).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="draws images of 1 x 32 x 32; the real ones are 1 x 28 x 28"):
        evaluate(tmp_path, "--protocol", few)


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
        drawn_features.draw_bytes(Drawing(value), [0, 1], {})


def test_a_pipeline_that_draws_from_words():
    class Words:
        def __call__(self, prompt, batch_size=1, generator=None): ...

    with pytest.raises(UsageError, match="it wants prompt"):
        drawn_features.draw_bytes(Words(), [0], {})


# --- protocols ------------------------------------------------------------------------------------------------------


def test_the_reference_is_known_by_its_pixels(tmp_path):
    real = RealImages.of(load_images("mnist-mini", "test"))
    assert protocol_of(real.sha256).name == "mnist-mini-v1"
    np.savez(tmp_path / "copy.npz", images=real.pixels.numpy()[:, 0])
    assert RealImages.of(load_images(str(tmp_path / "copy.npz"))).sha256 == real.sha256
    changed = real.pixels.clone()
    changed[7, 0, 3, 3] ^= 1
    assert protocol_of(pixels_sha256(changed)).name == "general-v1"


def test_a_protocol_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nnum_image: 5\n")
    with pytest.raises(UsageError, match="unknown key 'num_image'. Did you mean 'num_images'"):
        read_protocol(str(path))
    path.write_text("name: mine\nnum_images: 0\n")
    with pytest.raises(UsageError, match="num_images is 0"):
        read_protocol(str(path))
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match="is no protocol"):
        read_protocol(str(path))


def test_protocols_that_differ():
    one = Protocol(name="a").to_dict()
    assert differing_fields(one, Protocol(name="a", num_images=500).to_dict()) == ["num_images"]
    assert differing_fields(one, one) == []
    older = {name: value for name, value in one.items() if name != "center_crop"}
    assert differing_fields(older, one) == []
    assert differing_fields(older, Protocol(name="a", center_crop=False).to_dict()) == ["center_crop"]


def test_short_names_of_metrics():
    assert chosen("IS, prdc", list(METRICS), "--metrics") == [
        *("inception_score", "precision", "recall", "density", "coverage")
    ]


def test_features_of_real_images_are_kept(cache):
    extractor, real = DigitNet.load(), RealImages.of(load_images("mnist-mini", "test"))
    first = features_of(real, extractor)
    extractor.forward = None  # it is not asked again
    assert torch.equal(features_of(real, extractor), first)
    file = next(cache.glob("*"))
    file.write_bytes(b"damaged")
    del extractor.forward
    assert torch.equal(features_of(real, extractor), first)
