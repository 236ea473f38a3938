"""`hfgen evaluate`: one protocol for every family; what it records and refuses."""

import doctest
import importlib
import json
import re
import shlex
from pathlib import Path

import click
import pytest
import torch
import yaml
from measuring import TINY, evaluate, the_file

from hfgen import HFGenPipeline
from hfgen.cards.results_section import section
from hfgen.commands.main import cli
from hfgen.commands.options import split_dotted
from hfgen.components import weights_sha256
from hfgen.errors import CheckError, LoadError, UsageError
from hfgen.evaluation import real_images
from hfgen.registry import get_family, get_modality
from hfgen.results.metrics import METRICS
from hfgen.results.protocol import read_protocol
from hfgen.results.records import read_results
from hfgen.run_folder import read_metrics
from hfgen_extractors.digitnet import DigitNet


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    torch.manual_seed(0)
    unet = {"block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4}
    unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    folder = tmp_path_factory.mktemp("runs") / "ddpm"
    get_family("ddpm").load().build(28, 1, unet=unet).save_pretrained(folder)
    return folder


TRAILING = ["--timestep_spacing", "trailing"]
COSTS = ("network_evaluations", "seconds_per_image")


def test_a_result_says_what_number_it_is(gan, few, tmp_path, capsys):
    evaluate(gan, "--protocol", few, "--output_dir", tmp_path, "--json")
    result = json.loads(capsys.readouterr().out)[0]
    (written,) = (tmp_path / "evaluation").iterdir()
    assert re.fullmatch(r"few-digitnet-mnist-seed0-[0-9a-f]{8}.json", written.name)
    assert json.loads(written.read_text(), parse_constant=pytest.fail) == result
    of_images = {*get_modality("image").metrics, "network_evaluations", "parameters"}
    wanted = [n for n in METRICS if METRICS[n].of_samples or n in ("parameters", *COSTS)]
    assert list(result["values"]) == [name for name in wanted if name in of_images]
    assert all(type(v["value"]) is float for v in result["values"].values())
    assert result["values"]["network_evaluations"]["value"] == 1
    assert result["values"]["fid"]["value"] > 3 * result["floor"]["fid"]["value"]
    assert result["values"]["fid"]["error_of"] == "5 bootstraps of the drawn images"
    assert result["reference"]["sha256"] == result["protocol"]["reference_sha256"]
    assert result["extractor"]["weights_sha256"] == DigitNet.load().weights_sha256
    assert result["model"]["weights_sha256"] == weights_sha256(HFGenPipeline.from_pretrained(gan).models())
    assert "too few" in result["warning"]
    assert str(gan) not in written.read_text()
    assert not list((tmp_path / "evaluation").glob(".*"))


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


def test_a_scheduler_of_infinite_settings(ddpm, few, tmp_path, capsys):
    words = ["--protocol", few, "-n", 20, "--metrics", "fid", "--scheduler", "dpmsolver", "--num_inference_steps", 3]
    evaluate(ddpm, *words, "--json", "--output_dir", tmp_path)
    result = json.loads(capsys.readouterr().out)[0]
    assert result["sampler"]["config"]["lambda_min_clipped"] == "-inf"
    assert result["changed"] == {"scheduler": "dpmsolver"}


def test_limits(gan, few, tmp_path):
    words = [gan, "--protocol", few, "--metrics", "fid", "--output_dir", tmp_path]
    with pytest.raises(CheckError, match="FID of gan is .*; --max_fid is 1"):
        evaluate(*words, "--max_fid", 1)
    evaluate(*words, "--max_fid", 1000)
    with pytest.raises(
        UsageError, match="--min_coverage limits coverage, which is not measured; --metrics must name it"
    ):
        evaluate(*words, "--min_coverage", 0.5)
    with pytest.raises(UsageError, match="--max_fid is nan; it must be a finite number"):
        evaluate(*words, "--max_fid", "nan")


def test_steps_of_a_model_that_samples_in_many(ddpm, few, tmp_path, capsys):
    steps = ["--num_inference_steps", "2,3", "--timestep_spacing", "trailing"]
    evaluate(ddpm, "--protocol", few, "-n", 20, *steps, "--json", "--output_dir", tmp_path)
    results = json.loads(capsys.readouterr().out)
    assert [r["values"]["network_evaluations"]["value"] for r in results] == [2, 3]
    assert [r["sampler"]["options"] for r in results] == [
        {"timestep_spacing": "trailing", "num_inference_steps": k} for k in (2, 3)
    ]
    assert "bits_per_dim" not in results[0]["values"]  # takes long: measured when it is asked for
    names = {path.name.rpartition("-")[0] for path in (tmp_path / "evaluation").iterdir()}
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
    assert "options" not in result["likelihood"]
    assert 0.01 < result["values"]["reconstruction_mse"]["value"] < 1
    assert result["values"]["reconstruction_fid"]["value"] > 1


def test_options_of_a_likelihood(ddpm, few, tmp_path, capsys):
    """The record, the file's name and the command hold them and the scheduler's settings; the command repeats it."""
    words = ["--protocol", few, "--metrics", "nats", "--num_likelihood_images", 3, "--json", "--output_dir", tmp_path]
    options = ["--likelihood.num_timesteps", 2, "--likelihood.clip_sample=none"]
    evaluate(ddpm, *words, *options, "--scheduler.variance_type", "fixed_small")
    result = json.loads(capsys.readouterr().out)[0]
    assert result["likelihood"]["options"] == {"num_timesteps": 2, "clip_sample": "none"}
    assert "variance fixed small" in result["likelihood"]["method"]
    assert result["changed"] == {"scheduler.variance_type": "fixed_small"}
    assert result["sampler"]["config"]["variance_type"] == "fixed_small"
    departures = "likelihood.clip_samplenone-likelihood.num_timesteps2-scheduler.variance_typefixed_small"
    assert departures in the_file(tmp_path).name
    repeated = shlex.split(result["command"])[5:]
    evaluate(ddpm, "--protocol", few, *repeated, "--json", "--output_dir", tmp_path / "again")
    assert json.loads(capsys.readouterr().out)[0]["values"] == result["values"]
    evaluate(ddpm, *words, "--likelihood.method", "probability_flow", "--likelihood.num_ode_steps", 1)
    other = json.loads(capsys.readouterr().out)[0]
    assert other["likelihood"]["kind"] == "estimate"
    assert len(list((tmp_path / "evaluation").iterdir())) == 2


def test_the_command_gives_dotted_options_as_the_command_line_reads_them(ddpm, few, tmp_path, capsys):
    """YAML: true, false, null, and a number with an exponent."""
    words = ["--metrics", "nats", "--num_likelihood_images", 2, "--likelihood.num_timesteps", "null"]
    scheduler = {"clip_sample": False, "thresholding": True, "beta_start": 1e-5, "trained_betas": None}
    scheduler |= {"num_train_timesteps": 3, "variance_type": "fixed_small"}
    for name, value in scheduler.items():
        words += [f"--scheduler.{name}", yaml.safe_dump(value).split("\n")[0]]
    evaluate(ddpm, "--protocol", few, *words, "--json", "--output_dir", tmp_path)
    result = json.loads(capsys.readouterr().out)[0]
    _, dotted = split_dotted(shlex.split(result["command"]))
    assert dotted == {"likelihood": {"num_timesteps": None}, "scheduler": scheduler}
    assert "--scheduler.clip_sample false" in result["command"]
    assert result["changed"] == {f"scheduler.{name}": value for name, value in scheduler.items()}
    repeated = shlex.split(result["command"])[5:]
    evaluate(ddpm, "--protocol", few, *repeated, "--json", "--output_dir", tmp_path / "again")
    again = json.loads(capsys.readouterr().out)[0]
    assert {**again, "values": None} == {**result, "values": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_bits_per_dim", 3], "--max_bits_per_dim limits bits_per_dim, which is not measured; --metrics"),
        (["--max_fid", "nan"], "--max_fid is nan; it must be a finite number"),
        (["--metrics", "fid,fdi"], "no metric 'fdi'"),
        (["--likelihood.num_timesteps", 3], "--likelihood.num_timesteps: no likelihood is measured"),
    ],
)
def test_what_cannot_hold_is_refused_before_features_are_extracted(ddpm, few, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(real_images, "cache_folder", lambda: tmp_path / "cache")
    with pytest.raises(UsageError, match=message):
        evaluate(ddpm, "--protocol", few, "--metrics", "fid", *words, "--output_dir", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--likelihood.num_steps", 3], "--likelihood: unknown option 'num_steps'. Did you mean"),
        (["--likelihood.num_timesteps", "few"], "num_timesteps is 'few'; expected a whole number"),
        (
            ["--likelihood.num_timesteps", 3, "--metrics", "fid"],
            "--likelihood.num_timesteps: no likelihood is measured",
        ),
        (["--scheduler.variance", "small"], "--scheduler: unknown option 'variance'. Did you mean 'variance_type'"),
    ],
)
def test_options_that_are_not_taken(ddpm, few, tmp_path, words, message):
    with pytest.raises(UsageError, match=message):
        evaluate(ddpm, "--protocol", few, "--metrics", "nats", *words, "--output_dir", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_whose_likelihood_takes_no_options(gan, few):
    with pytest.raises(UsageError, match=r"--likelihood.k: the log_likelihood of DCGANPipeline takes no options"):
        evaluate(gan, "--protocol", few, "--likelihood.k", 3)
    with pytest.raises(click.NoSuchOption, match="No such option.*--generator.width"):
        evaluate(gan, "--protocol", few, "--generator.width", 3)
    with pytest.raises(UsageError, match="--guidance_scale: DCGANPipeline takes no such option. It takes none"):
        evaluate(gan, "--protocol", few, "--guidance_scale", 3)
    with pytest.raises(UsageError, match="samples in one step; num_inference_steps=5"):
        evaluate(gan, "--dataset_name", "no-such-data", "--num_inference_steps", 5)


def test_results_name_only_options_that_were_used(ddpm, few, tmp_path, capsys):
    """The likelihood is measured once for both numbers of steps, and named without them; its options likewise."""
    words = ["--protocol", few, "-n", 20, "--num_likelihood_images", 2, "--likelihood.num_timesteps", 2]
    steps = ["--num_inference_steps", "2,3", *TRAILING, "--metrics", "fid,nats"]
    evaluate(ddpm, *words, *steps, "--output_dir", tmp_path)
    printed = capsys.readouterr().out
    results = {json.dumps(result.choices, sort_keys=True): result for result in read_results(tmp_path)}
    sampled = [{"num_inference_steps": n, "timestep_spacing": "trailing"} for n in (2, 3)]
    assert set(results) == {json.dumps(c) for c in [*sampled, {"likelihood.num_timesteps": 2}]}
    likelihood = results['{"likelihood.num_timesteps": 2}']
    assert list(likelihood.values) == ["nats"]
    assert (likelihood.sampler["options"], likelihood.extractor) == ({}, None)
    assert "--metrics nats" in likelihood.command
    assert "num_inference_steps" not in likelihood.command
    assert re.search(r"ln p\(x\)  >= -[\d,]+ .*\nlikelihood: lower bound, variational bound, .*, 2 images", printed)
    del words[2:4]  # -n
    with pytest.raises(UsageError, match="--num_inference_steps: no metric uses it"):
        evaluate(ddpm, *words, "--num_inference_steps", 2, "--metrics", "nats", "--output_dir", tmp_path)


def test_times_alone(ddpm, few, tmp_path, capsys):
    """They need no metric of quality, and the card says of how many images, by which sampler, on which machine."""
    metrics = ["--metrics", "seconds_per_image,network_evaluations", "--num_images", 3]
    evaluate(ddpm, "--protocol", few, *metrics, *TRAILING, "--num_inference_steps", "2,3", "--output_dir", tmp_path)
    results = read_results(tmp_path)
    assert [r.values["network_evaluations"]["value"] for r in results] == [2, 3]
    text = section(results[1])
    assert "3 images of the model, seeds 0 to 2; sampled by\n`DDPMScheduler`, num_inference_steps 3, " in text
    assert "| evaluations | 3 |" in text
    assert str(results[1].hardware["processor"]) in text


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "mnist-v2"], "no protocol 'mnist-v2'. Did you mean 'mnist-v1'"),
        (["--protocol", "mnist-v1", "--dataset_name", "DATA"], "not the reference of mnist-v1"),
        (["--dataset_name", "DATA", "--split", "train"], "no protocol is made for these images"),
        (["--protocol", "FEW", "--metrics", "fdi"], "no metric 'fdi'. Did you mean 'fid'"),
        (["--protocol", "FEW", "--metrics", "nats"], "nats cannot be measured of this model"),
        (["--dataset_name", "DATA", "--split", "train", "--metrics", "fid"], "no protocol .* give --extractor"),
        (["--protocol", "FEW", "-n", 5], "needs at least 20 images, and --num_images is 5"),
        ([], "Give --dataset_name"),
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
    with pytest.raises(UsageError, match="samples images of 1 x 32 x 32; the real ones are 1 x 28 x 28"):
        evaluate(tmp_path, "--protocol", few)


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
    with pytest.raises(LoadError, match="'unet' comes from 'os'"):
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


@pytest.mark.parametrize(
    "module",
    [
        *("hfgen.evaluation.evaluate", "hfgen.evaluation.progress", "hfgen.evaluation.real"),
        *("hfgen.results.metrics", "hfgen.results.rows"),
    ],
)
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
