"""The reference models: each card is true, and each model works right after a clone, offline."""

import json
import re
from pathlib import Path

import pytest
import yaml

from hfgen.commands.main import cli
from hfgen.results.words import shown

CARDS = Path(__file__).parents[2] / "model_cards"
MODELS = sorted(path.parent for path in CARDS.glob("*/README.md"))
QUICK_TO_BUILD = ("dcgan-mnist",)  # the others take up to half a minute each
LIMIT = 8e6  # bytes of weights


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
@pytest.mark.whole
def test_the_card_is_true(model, capsys):
    """But for the snippets: `test_card.py` runs those of a small model, and the slow tests these."""
    cli.main(["card", str(model), "--check", "--num_redrawn", "4", "--no_snippets"], standalone_mode=False)
    assert capsys.readouterr().out.count("ok: ") == 3


@pytest.mark.parametrize(
    "model",
    [m if m.name in QUICK_TO_BUILD else pytest.param(m, marks=pytest.mark.slow) for m in MODELS],
    ids=lambda path: path.name,
)
def test_the_saved_config_still_starts_a_training(model, hfgen, empty_folder):
    """On other data and shortened, as `--dry_run` tries it."""
    words = ["--dataset_name", "mnist-mini", "--output_dir", "run", "--max_train_steps", 1, "--train_batch_size", 4]
    words += ["--num_validation_images", 4]
    code, out, err = hfgen("train", "--config", model / "config.yaml", *words, "--dry_run")
    assert code == 0, err
    assert "Nothing was written" in err
    assert yaml.safe_load(out)["model"] == yaml.safe_load((model / "config.yaml").read_text())["model"]
    assert not list(empty_folder.iterdir())


@pytest.mark.slow  # of the diffusion model it draws 32 images in 50 steps
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_snippets_run(model, capsys):
    cli.main(["card", str(model), "--check"], standalone_mode=False)
    assert capsys.readouterr().out.count("ok: ") == 4


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_what_is_committed_is_what_would_be_pushed(model):
    assert 0 < sum(path.stat().st_size for path in model.rglob("*.safetensors")) <= LIMIT
    assert list((model / "evaluation").glob("mnist-v1-*.json"))
    assert (model / "metrics.jsonl").is_file()
    assert not [
        path for path in model.rglob("*") if path.is_symlink() or path.suffix in (".bin", ".pt", ".pkl", ".py")
    ]
    assert not (model / "checkpoints").exists()


PAGE = CARDS.parent / "docs" / "models.md"
TABLE = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- figures: likelihoods -->\n.*?\n\|---.*?\n)(.*?)(<!-- end -->)", re.DOTALL)


def records(model):
    """The results by the protocol mnist-v1 that a model's folder holds."""
    return [json.loads(path.read_text()) for path in sorted((model / "evaluation").glob("mnist-v1-*.json"))]


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_the_table_of_models_says_what_was_measured(model):
    """Each number of the model's row is in its evaluation, to the last digit that is shown."""
    row = re.search(rf"^\| \[`{model.name}`\].*$", TABLE, re.MULTILINE)
    values = {shown(value) for record in records(model) for value in record["values"].values()}
    cells = [
        re.sub(r"^[<>]= |^reconstruction FID | bits$| nats, binary$", "", c.strip()) for c in row[0].split("|")[3:-1]
    ]
    assert len(cells) == 9
    assert all(cell in values for cell in cells if cell), [cell for cell in cells if cell not in values]


def most_images(results):
    """Of results whose likelihood was measured with options, the one of most images for each setting."""
    measured = [result for result in results if (result.get("likelihood") or {}).get("options")]
    found = {}
    for result in sorted(measured, key=lambda result: result["likelihood"]["images"]):
        setting = json.dumps([result["likelihood"]["options"], result.get("changed") or {}], sort_keys=True)
        found[setting] = result
    return list(found.values())


def likelihood_row(name, record):
    facts = record["likelihood"]
    binary = facts["num_values"] == 2
    metric, unit = ("nats", " nats, binary") if binary else ("bits_per_dim", " bits per dimension")
    bound = {"lower bound": ">= " if binary else "<= "}.get(facts["kind"], "")
    how = facts["method"] or f"K = {facts['num_importance_samples']:,}"
    value = f"{bound}{shown(record['values'][metric])}{unit}"
    return f"| `{name}` | {value} | {facts['kind']} | {how} | {facts['images']:,} |\n"


def likelihood_table():
    """The rows of all models, from their results alone."""
    return "".join(likelihood_row(model.name, record) for model in MODELS for record in most_images(records(model)))


def test_the_table_of_likelihoods_shows_the_result_of_most_images():
    def result(images, changed=(), **options):
        return {"likelihood": {"images": images, "options": options}, "changed": dict(changed)}

    few, most, other = result(1_000, k=8), result(10_000, k=8), result(16, k=5)
    clipped = result(1_000, {"clip_sample": "none"}, k=8)
    assert most_images([few, {"likelihood": None}, result(1_000), most, other, clipped]) == [other, most, clipped]
    assert most_images([most, few]) == [most]


def test_the_table_of_likelihoods_is_that_of_the_results():
    """`python tests/whole/test_model_cards.py` fills it."""
    assert BLOCK.search(TABLE)[2] == likelihood_table()


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda found: found[1] + likelihood_table() + found[3], TABLE), encoding="utf-8")
