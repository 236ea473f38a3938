"""Cards that cannot lie: made of the run's files alone, checked against weights, pictures and snippets."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from command_line import call as hfgen
from huggingface_hub import ModelCard

from hfgen import HFGenPipeline
from hfgen.cards import card
from hfgen.cards.results_section import eval_results
from hfgen.cards.validation_section import validated
from hfgen.errors import CheckError, UsageError
from hfgen.evaluation import card_check
from hfgen.results.protocol import read_protocol
from hfgen.results.records import read_results

TINY = ["--generator.base_channels", "4", "--discriminator.base_channels", "4"]


@pytest.fixture(scope="module")
def measured(few, tmp_path_factory):
    """A tiny GAN of two steps, evaluated once."""
    folder = tmp_path_factory.mktemp("runs") / "tiny gan"
    data = read_protocol(few).dataset
    words = ["train", "dcgan", "--dataset_name", data, "--max_train_steps", 2, "--num_validation_images", 16, *TINY]
    hfgen(*words, "--output_dir", folder)
    hfgen("evaluate", folder, "--protocol", few, "--metrics", "fid,recall,parameters")
    return folder


@pytest.fixture
def run(measured, tmp_path):
    shutil.copytree(measured, tmp_path / measured.name, ignore=shutil.ignore_patterns("checkpoints"))
    return tmp_path / measured.name


def test_rendering_a_card_imports_no_torch():
    code = "import hfgen.cards.card, hfgen.cards.without_run, sys; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def result_of(run):
    path = next((run / "evaluation").glob("few*.json"))
    return path, json.loads(path.read_text())


def test_an_evaluation_brings_the_card_up_to_date(run):
    _, result = result_of(run)
    text = (run / "README.md").read_text()
    assert text == card.render(run)
    assert f"| FID | {result['values']['fid']['value']:.1f}"[:10] in text
    assert "| recall | 0 | " in text
    assert "image" not in result["command"].split("--metrics")[0]
    assert result["command"] in text
    assert result["command"] == "hfgen evaluate 'tiny gan' --protocol few --metrics fid,recall,parameters"
    assert "too few" in text.lower()


def enough(run):
    """As if that many images were enough."""
    path, result = result_of(run)
    path.write_text(json.dumps({**result, "warning": None}))
    hfgen("card", run)


def test_the_metadata_are_plain_numbers_that_the_hub_reads(run):
    _, result = result_of(run)
    loaded = ModelCard((run / "README.md").read_text()).data
    assert loaded.eval_results is loaded.model_name is None  # of 103 images
    enough(run)
    loaded = ModelCard((run / "README.md").read_text()).data
    assert loaded.model_name == "tiny gan"
    assert {r.metric_type for r in loaded.eval_results} == {"fid", "recall"}
    fid = next(r for r in loaded.eval_results if r.metric_type == "fid")
    assert type(fid.metric_value) is float
    assert fid.metric_value == result["values"]["fid"]["value"]
    assert fid.metric_name == "FID (digitnet-mnist, n=103)"
    assert fid.metric_args["extractor_sha256"] == result["extractor"]["weights_sha256"]
    metadata = yaml.safe_load((run / "README.md").read_text().split("---")[1])
    assert len(metadata["model-index"][0]["results"]) == 1
    assert [r.metric_args for r in eval_results(read_results(run))] == [r.metric_args for r in loaded.eval_results]


@pytest.mark.slow  # its Python runs in fresh processes; without it, the next tests check
def test_a_true_card_holds(run, capsys):
    hfgen("card", run, "--check", "--num_redrawn", 4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ok"] * 4
    assert "ok: 4 pictures sampled again" in lines


@pytest.mark.parametrize(("total", "count", "seeds"), [(64, 4, [0, 16, 32, 48]), (4, 8, [0, 1, 2, 3]), (1, 8, [0])])
def test_as_many_pictures_are_said_to_be_sampled_again_as_are(total, count, seeds):
    assert card_check.redrawn(total, count) == seeds


def check(run, *words):
    hfgen("card", run, "--check", "--no_snippets", "--num_redrawn", 4, *words)


def test_a_changed_digit_is_caught(run, capsys):
    enough(run)
    _, result = result_of(run)
    readme, value = run / "README.md", repr(result["values"]["fid"]["value"])
    other = value[:-1] + str((int(value[-1]) + 1) % 10)
    readme.write_text(readme.read_text().replace(value, other))
    with pytest.raises(CheckError, match="is not true: 1 of its checks"):
        check(run)
    out = capsys.readouterr().out
    assert f"the card has:       value: {other}" in out
    assert f"its files say:       value: {value}" in out
    hfgen("card", run)
    check(run)
    readme.write_text(readme.read_text() + "\n++ FID 0.01 on ImageNet")
    with pytest.raises(CheckError):
        check(run)
    assert "the card has: ++ FID 0.01" in capsys.readouterr().out


def test_a_bundled_run_tells_how_it_is_loaded_without_hfgen(run, capsys):
    assert "trust_remote_code" not in (run / "README.md").read_text()
    HFGenPipeline.from_pretrained(run).save_pretrained(run, bundle_code=True)
    hfgen("card", run)
    text = (run / "README.md").read_text()
    assert 'DiffusionPipeline.from_pretrained("tiny gan", trust_remote_code=True)' in text
    assert "runs the code of this repository on your machine" in text
    assert "With hfgen it is not needed" in text
    check(run)


def test_what_a_stranger_wrote_is_not_run(run, tmp_path, capsys, processes):
    """Neither a snippet in the card, nor one that comes into it from a file of the run, nor a module beside it."""
    ran = tmp_path / "ran"
    code = f"```python\nopen({str(ran)!r}, 'w').write('x')\n```"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[-1]["diagnosis"] = {"warnings": [code]}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def forked(words, cwd, **options):
        return processes.run("import sys; assert '' not in sys.path\n" + words[-1], cwd=cwd)

    run = run.rename(tmp_path / "click")  # which is a package that hfgen imports
    hfgen("card", run)
    (run / "__init__.py").write_text(f"open({str(ran)!r}, 'w').write('x')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card_check, "other_samples", lambda *a: [])
        patch.setattr(card_check.subprocess, "run", forked)
        hfgen("card", run, "--check", "--num_redrawn", 1)
    assert code.splitlines()[1] in (run / "README.md").read_text()
    assert not ran.exists()


def test_files_that_are_no_results(run):
    path, result = result_of(run)
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "is not a result"),
        ('{"metric": "evaluation"}', "missing, or of another type:\n  protocol.name"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            hfgen("card", run)
    result["values"]["nonsense"] = {"value": 1.0}
    path.write_text(json.dumps(result))
    with pytest.raises(UsageError, match="is damaged: KeyError 'nonsense'"):
        check(run)


def test_a_value_changed_in_card_and_file_of_other_weights_is_caught(run, capsys):
    path, result = result_of(run)
    result["model"]["weights_sha256"] = 64 * "0"
    result["values"]["parameters"]["value"] += 1
    path.write_text(json.dumps(result))
    hfgen("card", run)
    with pytest.raises(CheckError):
        check(run)
    out = capsys.readouterr().out
    assert "is of weights 000000000000, not" in out
    assert "parameters; the model has" in out


def test_pictures_of_another_model_are_caught(run, capsys):
    from PIL import Image

    path = next((run / "samples").glob("step_*.png"))
    with Image.open(path) as image:
        inverted = Image.eval(image, lambda v: 255 - v)
    inverted.save(path)
    with pytest.raises(CheckError):
        check(run)
    assert "seed 0 gives another image" in capsys.readouterr().out
    inverted.crop((0, 0, 30, 30)).save(path)
    with pytest.raises(CheckError):
        check(run)
    assert "is not a grid of 16 images" in capsys.readouterr().out


def test_a_snippet_that_fails_is_caught(run, monkeypatch):
    program = card.program(run, "tiny gan")
    assert 'HFGenPipeline.from_pretrained("tiny gan")' in program
    assert "main(['sample', 'tiny gan'," in program
    assert program.splitlines()[:4] == (run / "README.md").read_text().partition("```python\n")[2].splitlines()[:4]
    monkeypatch.setattr(card, "program", lambda *a: "raise SystemExit('broken')")
    assert card_check.failing(run, "tiny gan") == ["they end with 1: broken"]


def test_options_that_would_be_code_are_refused(run):
    path = run / "env.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "sampled_with": {"a=print(1), b": 1}}))
    with pytest.raises(UsageError, match="sampled_with must hold options"):
        card.render(run)


def test_an_edited_card_is_not_overwritten_by_an_evaluation(run, few, capsys):
    readme = run / "README.md"
    edited = readme.read_text() + "\nMy own words.\n"
    readme.write_text(edited)
    hfgen("evaluate", run, "--protocol", few, "--metrics", "recall")
    assert readme.read_text() == edited
    assert "was edited; `hfgen card` renders it anew" in capsys.readouterr().err


def test_what_has_no_card(tmp_path):
    with pytest.raises(UsageError, match="has no card"):
        hfgen("card", tmp_path, "--check")
    with pytest.raises(UsageError, match="holds no finished run"):
        hfgen("card", tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        hfgen("card", tmp_path / "none")


def test_a_model_that_was_converted_keeps_its_card(tmp_path):
    (tmp_path / "README.md").write_text("# gan")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UsageError) as error:
        hfgen("card", tmp_path)
    assert "config.yaml and metrics.jsonl are missing" in str(error.value)
    assert "`hfgen convert` wrote: it stays as it is, and\ncannot be rendered again" in str(error.value)
    assert (tmp_path / "README.md").read_text() == "# gan"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.yaml", None, r"run: config\.yaml is missing\.$"),
        ("config.yaml", "a: [", r"config\.yaml is not readable YAML: "),
        ("config.yaml", "- a", r"config\.yaml is not a config file"),
        ("config.yaml", "seed: 1", r"config\.yaml is damaged: it does not say which `model`"),
        ("metrics.jsonl", None, r"run: metrics\.jsonl is missing\.$"),
        ("metrics.jsonl", "", r"metrics\.jsonl is empty"),
        ("metrics.jsonl", '{"step": ', r"metrics\.jsonl is damaged: its first line is not"),
        ("metrics.jsonl", '{"loss": 1}', r"metrics\.jsonl is damaged: its first line is not"),
        ("metrics.jsonl", b"\xff", r"metrics\.jsonl cannot be read: "),
    ],
)
def test_a_damaged_file_of_a_run_is_named(name, content, words, tmp_path):
    files = {"config.yaml": "model: dcgan", "metrics.jsonl": '{"step": 1}', name: content}
    for file, text in files.items():
        if text is not None:
            (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words):
        hfgen("card", tmp_path)


def test_what_was_measured_comes_before_how_it_was_trained_and_the_settings_are_folded(run):
    text = (run / "README.md").read_text()
    places = [
        text.index(words) for words in ("<img src=", "## Measured", "## Use", "<details>", "```yaml", "## Limits")
    ]
    assert places == sorted(places)
    assert 'width="448"' in text  # 4 x 4 images of 28 pixels


LINES = [{"step": 5, "validation_fid": 9.0}, {"step": 10, "validation_fid": 7.25}, {"step": 15, "validation_fid": 8.0}]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "of the split test, measured FID 8."),
        ({"best_metric": "fid"}, "FID 8.\nThe best FID was 7.25, at step 10: `best/` of the run's folder"),
        ({"best_metric": "coverage"}, "measured FID 8."),
    ],
)
def test_a_card_tells_what_validations_measured(config, words):
    config = {"num_evaluation_images": 500, "validation_split": "test", **config}
    assert words in validated(config, {}, LINES)
    assert validated(config, {}, LINES[:2]).endswith("at step 10 too.") == (config.get("best_metric") == "fid")
    assert validated(config, {}, [{"step": 1}]) == ""
    assert "on 20 images that were held out" in validated(config, {"held_out": {"count": 20}}, LINES)
