"""`hfgen compare`: what compares, what is said of it, what is refused; one real evaluation, and its record altered."""

import copy
import hashlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from command_line import call
from hub_server import HubServer
from PIL import Image
from small_protocol import small_protocol

from hfgen.commands.compare import text
from hfgen.errors import UsageError
from hfgen.registry import get_family
from hfgen.results.comparison import compare
from hfgen.results.page import tables
from hfgen.results.plot import figure
from hfgen.results.protocol import read_protocol
from hfgen.results.rows import judge

BOUND = {"kind": "lower bound", "method": None, "num_importance_samples": 8, "num_values": 256, "images": 20}
EXACT = {**BOUND, "kind": "exact", "num_importance_samples": None}

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A tiny model, measured by a small protocol: (its folder, the record)."""
    from hfgen.evaluation import real_images

    folder = tmp_path_factory.mktemp("measured")
    few = small_protocol(folder, 100, num_images=50, batch_size=25, bootstraps=4)
    torch.manual_seed(0)
    tiny = {"generator.base_channels": 4, "discriminator.base_channels": 4}
    get_family("dcgan").load().build(28, 1, **tiny).save_pretrained(folder / "gan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_images, "cache_folder", lambda: folder / "cache")
        call("evaluate", folder / "gan", "--protocol", few)
    file = next((folder / "gan" / "evaluation").glob("*.json"))
    return folder / "gan", json.loads(file.read_text())


@pytest.fixture
def put(gan, tmp_path):
    """Writes the record, altered, as a result of a model of this name; `a.b=c` is given as {"a.b": c}."""

    def write(name, changes=None, fid=None, steps=None, stem="result", folder=None, weights=None):
        record = copy.deepcopy(gan[1])
        record |= {"name": name}
        record["model"]["weights_sha256"] = hashlib.sha256((weights or name).encode()).hexdigest()
        changes = dict(changes or {})
        if fid is not None:
            changes |= {"values.fid": {"value": fid[0], "error": fid[1], "error_of": "4 bootstraps"}}
        if steps is not None:
            changes |= {"sampler.options": {"num_inference_steps": steps}, "sampler.scheduler": "Stepping"}
            changes |= {"values.network_evaluations": {"value": float(steps)}}
            changes |= {"values.seconds_per_image": {"value": steps / 100}}
        for path, value in changes.items():
            place = record
            *keys, last = path.split("/") if "/" in path else path.split(".")
            for key in keys:
                place = place[key]
            place[last] = value
        place = (folder or tmp_path / name) / "evaluation"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{stem}.json").write_text(json.dumps(record))
        return str(place.parent)

    return write


def likelihood(told, bits, error=0.01):
    value = {"value": bits, "error": error, "error_of": "standard error"}
    return {"likelihood": told, "values.bits_per_dim": value, "values.nats": {**value, "value": -bits * 543}}


def marks(comparison, metric):
    return {row.name: row.values[metric].get("mark") for row in comparison.rows if metric in row.values}


# --- side by side -----------------------------------------------------------------------------------------------


def test_from_evaluating_to_comparing(gan, put, hfgen):
    folder, record = gan
    fid = record["values"]["fid"]["value"]
    code, out, _ = hfgen("compare", folder, put("better", fid=(fid / 100, 0.001)))
    assert code == 0
    assert "2 models by few: 50 images of seed 0 on; 100 real ones of data; features of digitnet-mnist" in out
    lines = out.splitlines()
    assert next(line for line in lines if line.startswith("gan ")).split()[1:3] == [
        "PriorScheduler",
        f"{fid:.{_digits(record)}f}",
    ]
    assert f"{fid / 100:.4f} +- 0.0010 *" in out
    assert any(line.startswith("real images ") for line in lines)
    assert "* best: separable from every other" in out
    assert "a smoke test only" in out
    code, out, _ = hfgen("compare", folder, "better", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert [row["name"] for row in found["rows"]] == ["gan", "better"]
    unmarked = {n: {k: x for k, x in v.items() if k != "mark"} for n, v in found["rows"][0]["values"].items()}
    assert unmarked == record["values"]
    assert found["rows"][1]["values"]["fid"]["mark"] == "best"
    assert (found["protocol"], found["floor"]) == (record["protocol"], record["floor"])
    assert str(folder.parent) not in json.dumps(found["rows"])


def _digits(record):
    from hfgen.results.words import shown

    return len(shown(record["values"]["fid"]).split()[0].partition(".")[2])


@pytest.mark.parametrize(
    ("values", "lower", "expected"),
    [
        ([(1.0, 0.1), (1.41, 0.1)], True, ["best", None]),
        ([(1.0, 0.1), (1.39, 0.1)], True, ["not separable", "not separable"]),
        ([(1.0, 0.1), (1.41, 0.1)], False, [None, "best"]),
        ([(3.0, 0.1), (1.0, 0.1), (1.2, 0.1)], True, [None, "not separable", "not separable"]),
        (
            [(1.0, 0.1), (2.0, 0.1), (5.0, 3.0)],
            True,
            ["not separable", None, "not separable"],
        ),  # the third, not the second
        ([(1.0, 0.0), (2.0, 0.0)], True, ["best", None]),
        ([(1.0, None), (2.0, 0.1)], True, [None, None]),
        ([(1.0, 0.1)], True, [None]),
    ],
)
def test_the_best_only_where_it_is_separable(values, lower, expected):
    assert judge(values, lower) == expected


def test_what_has_no_error_or_no_better_is_not_ranked(put):
    names = [put("a", fid=(1, 0.1)), put("b", {"values.recall": {"value": 0.9}}, fid=(2, 0.1))]
    c = compare(names)
    assert marks(c, "fid") == {"a": "best", "b": None}
    for metric in ("recall", "seconds_per_image", "parameters", "authenticity"):
        assert marks(c, metric) == {"a": None, "b": None}


def test_numbers_of_steps_are_rows(put):
    for steps in (100, 20, 3):
        put("walk", steps=steps, stem=f"steps{steps}", fid=(200 / steps, 0.5))
    c = compare([put("a", fid=(5, 0.1)), put("walk", steps=10, stem="steps10", fid=(20, 0.5))])
    assert [row.sampler.removeprefix("Stepping, ") for row in c.rows] == [
        "PriorScheduler", "3 steps", "10 steps", "20 steps", "100 steps",
    ]  # fmt: skip
    assert [row.values["fid"].get("mark") for row in c.rows] == [None, None, None, None, "best"]
    assert "2 models by few" in text(c)


def test_another_setting_of_the_sampler_is_told(put):
    put("flow", {"sampler.config": {"temperature": 1.0, "shape": [6]}})
    put("flow", {"sampler.config": {"temperature": 0.7, "shape": [6]}}, stem="cool")
    a = put("a", {"sampler.config": {"temperature": 1.0, "truncation": 0.5}})
    assert [row.sampler for row in compare([str(Path(a).parent / "flow"), a]).rows] == [
        "PriorScheduler, temperature 0.7", "PriorScheduler, temperature 1.0", "PriorScheduler, truncation 0.5",
    ]  # fmt: skip


# --- likelihoods ------------------------------------------------------------------------------------------------


def test_likelihoods_are_ranked_within_a_kind(put):
    told = {"bound 2.0": (BOUND, 2.0), "bound 1.5": (BOUND, 1.5), "exact 1.7": (EXACT, 1.7), "exact 1.9": (EXACT, 1.9)}
    told["of 2 values"] = ({**EXACT, "num_values": 2}, 0.2)
    told["K = 500"] = ({**BOUND, "num_importance_samples": 500}, 1.1)
    told["estimate"] = ({**EXACT, "kind": "estimate"}, 1.0)
    c = compare([put(name, likelihood(*value)) for name, value in told.items()])
    expected = dict.fromkeys(told) | {"bound 1.5": "best", "exact 1.7": "best"}
    assert marks(c, "bits_per_dim") == marks(c, "nats") == expected
    out = text(c)
    assert "<= 1.500 +- 0.010 *" in out
    assert ">= -814.500 +- 0.010 *" in out
    assert "  1.700 +- 0.010 *" in out
    assert "about 1.000 +- 0.010" in out
    assert "lower bound, 500 importance samples, of 256 values, 20 images" in out
    assert "exact, of 2 values, 20 images" in out
    assert "kind, method and number of values" in out


def test_one_likelihood_in_several_numbers_of_steps(put):
    for steps in (10, 20):
        put("walk", likelihood(BOUND, 2.0), steps=steps, stem=f"steps{steps}")
    c = compare([put("walk", likelihood(BOUND, 2.0), steps=50, stem="steps50")])
    assert set(marks(c, "bits_per_dim").values()) == {None}
    assert len(c.rows) == 3
    assert len(next(table for table in tables(c) if table.title == "Likelihood").rows) == 1
    c = compare([put("walk", likelihood(BOUND, 2.0), steps=50, stem="steps50"), put("b", likelihood(BOUND, 3.0))])
    assert marks(c, "bits_per_dim") == {"walk": "best", "b": None}


def test_a_density_has_nats_alone(put):
    changes = likelihood({**EXACT, "num_values": None}, 2.0)
    del changes["values.bits_per_dim"]
    out = text(compare([put("a", changes), put("b")]))
    assert "exact, a density, 20 images" in out
    assert "bits/dim" not in out


def test_a_likelihood_alone_needs_no_equal_features(put):
    alone = {"extractor": None, "values": {}, "floor": {}, "versions.torchmetrics": "0.1", **likelihood(BOUND, 1.0)}
    c = compare([put("a", alone), put("b", likelihood(BOUND, 2.0))])
    assert marks(c, "bits_per_dim") == {"a": "best", "b": None}
    assert c.extractor["name"] == "digitnet-mnist"
    assert "fid" in c.floor
    assert [cell.text for cell in tables(c)[0].rows[0]][2:] == ["-"] * 8


# --- costs ------------------------------------------------------------------------------------------------------


def test_seconds_of_other_hardware_carry_a_note(put):
    names = [put("a"), put("b", {"hardware.processor": "Abacus 3000"})]
    out = text(compare(names))
    assert "s/image were measured on different hardware and do not compare: (a) " in out
    assert "Abacus 3000" in out
    seconds = [row[3].text for table in tables(compare(names)) if table.title == "Cost" for row in table.rows]
    assert [cell[-4:] for cell in seconds] == [" (a)", " (b)"]
    assert "hardware" not in text(compare(names[:1]))


def test_other_versions_that_draw_carry_a_note(put):
    c = compare([put("a"), put("b", {"versions.torch": "1.0"})])
    assert any("different versions of torch: " in note and "1.0 (b)" in note for note in c.notes)


# --- what does not compare --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "shown", "remedy"),
    [
        ("protocol.num_images", 20, "num_images 50 / 20", "evaluate b --protocol few.yaml --num_images 50"),
        ("protocol.seed", 7, "seed 0 / 7", "--seed 0"),
        ("protocol.likelihood_images", 3, "likelihood_images 1000 / 3", "--num_likelihood_images 1000"),
        ("protocol.nearest_k", 3, "nearest_k 5 / 3", "a file with nearest_k: 5"),
        ("reference.sha256", "0" * 64, "... / 000000000000...", "--dataset_name data"),
        ("extractor.weights_sha256", "0" * 64, "extractor.weights_sha256 ", "--extractor_weights THE-SAME-FILE"),
        ("versions.torchmetrics", "0.1", " / 0.1", "With torchmetrics=="),
        ("versions.prdc", "0.1", "versions.prdc ", "With prdc=="),
    ],
)  # fmt: skip
def test_other_rules_do_not_compare(put, hfgen, field, value, shown, remedy):
    put("a"), put("b", {field: value})
    code, out, err = hfgen("compare", "a", "b")
    assert (code, out) == (2, "")
    flat = " ".join(err.split())
    assert "a and b were measured by different rules, so their values do not compare" in flat
    assert shown in flat
    assert remedy in flat
    assert len(err.splitlines()) <= 6


@pytest.mark.parametrize(("first", "remedy"), [({}, ""), ({"num_images": 500}, " --num_images 500")])
def test_a_protocol_that_comes_with_hfgen_needs_no_file(put, first, remedy):
    real = read_protocol("mnist-v1").to_dict()
    targets = [put("a", {"protocol": {**real, **first}}), put("b", {"protocol": {**real, "nearest_k": 3}})]
    with pytest.raises(UsageError) as error:
        compare(targets)
    assert str(error.value).endswith(f"Measure again: hfgen evaluate {targets[1]} --protocol mnist-v1{remedy}")


def test_a_field_that_only_one_protocol_has(put):
    with pytest.raises(UsageError, match="new_rule None / 1"):
        compare([put("a"), put("b", {"protocol.new_rule": 1})])


def test_a_library_that_is_no_longer_used(put):
    name = "versions.scikit-learn"
    assert len(compare([put("a", {name: "1.0"}), put("now")]).rows) == 2
    with pytest.raises(UsageError, match="versions.scikit-learn 1.0 / 1.1\nWith scikit-learn==1.0 installed"):
        compare([put("a", {name: "1.0"}), put("b", {name: "1.1"})])


def test_all_that_differs_is_told(put):
    other = {"protocol.seed": 7, "protocol.num_images": 20, "versions.prdc": "0.1"}
    with pytest.raises(UsageError) as error:
        compare([put("a"), put("b", other)])
    assert all(
        word in str(error.value) for word in ("seed 0 / 7", "num_images 50 / 20", "versions.prdc ", "With prdc==")
    )


def test_rules_that_all_targets_have(put, tmp_path):
    """A smoke test beside the real results is left out, and told."""
    few = {"protocol.num_images": 20}
    a, b = put("a"), put("b", fid=(1, 0.1))
    put("a", few, stem="few")
    c = compare([a, b])
    assert [row.values["fid"]["value"] for row in c.rows][1] == 1
    assert "1 results of other rules" in c.notes[-1]
    put("b", few, stem="few")
    with pytest.raises(UsageError, match="num_images 20 or 50\nName the result files of one kind, such as .*json"):
        compare([a, b])
    assert len(compare([f"{a}/evaluation/few.json", f"{b}/evaluation/few.json"]).rows) == 2
    real = read_protocol("mnist-v1").to_dict()
    for name in "ab":
        put(name, {"protocol": real}, folder=tmp_path / f"real-{name}")
        put(name, {"protocol": {**real, "num_images": 20}}, folder=tmp_path / f"real-{name}", stem="few")
    assert compare([str(tmp_path / "real-a"), str(tmp_path / "real-b")]).protocol["num_images"] == 10_000


def test_protocols(put, hfgen):
    put("a"), put("b", {"protocol.name": "mnist-v1"})
    code, _, err = hfgen("compare", "a", "b")
    assert code == 2
    assert "Measure again: hfgen evaluate b --protocol few" in err
    put("a", {"protocol.name": "mnist-v1"}, stem="mnist")
    assert hfgen("compare", "a", "b")[1].startswith("2 models by mnist-v1")
    assert "hfgen evaluate b --protocol few" in hfgen("compare", "a", "b", "--protocol", "few")[2]
    assert (
        "no target has results of 'mnist-v'. Did you mean 'mnist-v1'?"
        in hfgen("compare", "a", "--protocol=mnist-v")[2]
    )
    put("b", stem="few")
    assert "choose one: --protocol few or mnist-v1" in hfgen("compare", "b", "a")[2]
    assert hfgen("compare", "a", "b", "--protocol", "few")[1].startswith("2 models by few")
    Path("mine.yaml").write_text("name: few")
    assert hfgen("compare", "a", "b", "--protocol", "mine.yaml")[1].startswith("2 models by few")


# --- where results lie ------------------------------------------------------------------------------------------


def test_folders_files_and_doubles(put, tmp_path):
    a, b = put("a"), put("b")
    results = tmp_path / "results"
    results.mkdir()
    for target in (a, b):
        (results / f"{Path(target).name}.json").write_bytes((Path(target) / "evaluation" / "result.json").read_bytes())
    (results / "else.json").write_text('{"metric": "log_likelihood"}')
    assert [row.name for row in compare([str(results)]).rows] == ["a", "b"]
    assert [row.name for row in compare([a, a + "/", f"{a}/evaluation/result.json", b]).rows] == ["a", "b"]


def test_models_of_one_name(put, tmp_path):
    places = [tmp_path / run / "checkpoints" / "checkpoint-5" for run in ("one", "two")]
    targets = [put("checkpoint-5", folder=place, weights=str(place)) for place in places]
    assert [r.name for r in compare(targets).rows] == ["one/checkpoints/checkpoint-5", "two/checkpoints/checkpoint-5"]
    put("checkpoint-5", folder=places[0], weights="trained on", stem="later")
    names = [row.name for row in compare(targets[:1]).rows]
    assert len(set(names)) == 2
    assert all(name.startswith("checkpoint-5 ") for name in names)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x", None, "x holds no result of `hfgen evaluate`.*\n  hfgen evaluate x --dataset_name"),
        ("x/evaluation", '{"metric": "log_likelihood"}', "hfgen evaluate x --dataset_name"),
        ("x", "{", "r.json cannot be read: .*\nMeasure again"),
        ("x", '{"metric": "evaluation", "values": {"fid": {"value": NaN}}}', "NaN is not a number"),
        ("x", '{"metric": "evaluation"}', "r.json is no result .*\n  protocol.name, protocol.num_images"),
        ("x", "[" * 100_000, "r.json cannot be read"),
    ],
)
def test_a_target_without_results(tmp_path, monkeypatch, put, name, content, message):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    if content is not None:
        (Path(name) / "r.json").write_text(content)
    put("a")
    with pytest.raises(UsageError, match=message):
        compare(["a", "x"])


def test_other_things_are_no_targets(tmp_path, put):
    (tmp_path / "env.json").write_text("{}")
    with pytest.raises(UsageError, match=r"env.json is no result .*\n  hfgen evaluate TARGET"):
        compare([str(tmp_path / "env.json")])
    with pytest.raises(UsageError, match="There is no ./nothing. Give the folder of a run"):
        compare(["./nothing"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("values/fid", {"value": "1"}), ("values/fid", {"value": 1, "error": -1}), ("values/fid", [1]),
        ("values/fid", {"value": True}), ("floor/kid", {"value": 1, "error": None}), ("values", []), ("floor", 3),
        ("protocol/num_images", "50"), ("sampler/options", None), ("extractor/name", 1), ("hardware", "fast"),
        ("likelihood/kind", 5),
    ],
)  # fmt: skip
def test_records_of_another_shape(put, path, value):
    changes = likelihood(dict(BOUND), 1.0) if path.startswith("likelihood") else {}
    with pytest.raises(UsageError, match=f"missing, or of another kind:\n  {path.replace('/', '.')}"):
        compare([put("a", {**changes, path: value})])


def test_an_infinite_number(put, tmp_path):
    file = Path(put("a", {"values.fid": {"value": 12345.5}})) / "evaluation" / "result.json"
    file.write_text(file.read_text().replace("12345.5", "1e999"))
    with pytest.raises(UsageError, match="values.fid"):
        compare([str(tmp_path / "a")])


COMPARING_REPOSITORIES = """
import json, pathlib
from hfgen.results.comparison import compare
from hfgen.errors import UsageError

c = compare(["org/published", "org/bare"])
print(json.dumps([[row.name, row.values["fid"].get("mark")] for row in c.rows]))
pathlib.Path("evaluations").rename("elsewhere")
try:
    compare(["org/published", "org/bare"])
except UsageError as error:
    print(error)
"""


def test_repositories(put, tmp_path):
    """Only results are fetched; where a repository has none, those that were measured of it here count."""
    put("published", fid=(1, 0.1))
    (tmp_path / "published" / "model_index.json").write_text("{}")
    (tmp_path / "published" / "big.safetensors").write_bytes(b"0" * 1000)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model_index.json").write_text("{}")
    put("bare", fid=(2, 0.1), folder=tmp_path / "work" / "evaluations" / "org" / "bare")
    with HubServer() as server:
        server.add("org/published", tmp_path / "published")
        server.add("org/bare", bare)
        options = {"env": server.environment(tmp_path / "home"), "cwd": tmp_path / "work", "text": True}
        out = subprocess.check_output([sys.executable, "-c", COMPARING_REPOSITORIES], timeout=100, **options)
    found, refused = out.split("\n", 1)
    assert json.loads(found) == [["published", "best"], ["bare", None]]
    assert server.files_asked() == {"evaluation/result.json"}
    assert "org/bare holds no result of `hfgen evaluate`" in refused


# --- files ------------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>|$x_$ \x1b[31m\n\"'><img src=x onerror=y>_`#"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.words = [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def evil(put):
    changes = {
        "sampler.scheduler": EVIL,
        "sampler.options": {EVIL: EVIL},
        "protocol.name": EVIL,
        "reference.name": EVIL,
        "extractor.name": EVIL,
        "likelihood": {**BOUND, "kind": EVIL, "method": EVIL},
        "warning": EVIL,
        "values.bits_per_dim": {"value": 1.0, "error": 0.1, "error_of": EVIL},
    }
    put("evil", {**changes, "name": EVIL}, weights="evil", stem=EVIL.replace("/", ""))
    put("good", {**changes, "hardware.processor": EVIL}, fid=(1, 0.1))
    return "evil", "good"


def test_a_page_needs_and_runs_nothing(evil, hfgen):
    assert hfgen("compare", *evil, "--output", "page.html")[0] == 0
    page = Path("page.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.found}
    assert names == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "tr", "th", "td", "ul"),
        *("li", "img", "br", "small"),
    } - ({"br", "small"} - names)
    assert {key for _, attributes in tags.found for key in attributes} <= {
        *("lang", "charset", "content", "name", "http-equiv", "class", "alt", "src")
    }
    images = [attributes["src"] for tag, attributes in tags.found if tag == "img"]
    assert len(images) == 1
    assert images[0].startswith("data:image/png;base64,iVBOR")
    assert tags.words.count("<script>alert(1)</script>") > 8
    assert "default-src 'none'" in page


def test_nothing_commands_the_terminal(evil, hfgen):
    for option in ([], ["--json"]):
        code, out, err = hfgen("compare", *evil, *option)
        assert code == 0
        assert "\x1b" not in out + err
    _, out, err = hfgen("compare", *evil, "--protocol", "none")
    assert "\x1b" not in err


def test_a_markdown_table(evil, put, hfgen):
    hfgen("compare", *evil, "--output", "new/table.md")
    lines = Path("new/table.md").read_text(encoding="utf-8").splitlines()
    assert r"\<script\>alert(1)\</script\>\|\$x\_\$ ?" in lines[0]
    assert not any("<script" in line.replace(r"\<", "") for line in lines)
    table = [line for line in lines if line.startswith("| ")]
    bars = [line.replace(r"\|", "").count("|") for line in table]
    assert len({*bars}) == 3  # three tables, each as wide throughout
    hfgen("compare", put("a", fid=(1, 0.01)), put("b", fid=(2, 0.01)), "--output", "b.md")
    assert "| **1.000 +- 0.010** (best) |" in Path("b.md").read_text()


def test_plots_as_files(evil, hfgen):
    assert hfgen("compare", *evil, "--output", "a.png")[0] == 0
    with Image.open("a.png") as image:
        assert (image.format, image.size) == ("PNG", (960, 600))
    assert hfgen("compare", *evil, "--output", "a.svg")[0] == 0
    assert ElementTree.parse("a.svg").getroot().tag.endswith("svg")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse("a.svg").iter()}
    assert not tags & {"script", "image", "foreignObject", "a"}
    assert Path("a.svg").read_bytes().count(b"<script") == 0


def test_files_are_not_replaced_unasked(put, hfgen):
    put("a")
    Path("x.md").write_text("mine")
    code, _, err = hfgen("compare", "a", "--output", "x.md")
    assert code == 2
    assert "x.md exists" in err
    assert Path("x.md").read_text() == "mine"
    assert hfgen("compare", "a", "--output", "x.md", "--overwrite")[0] == 0
    assert "| a |" in Path("x.md").read_text()
    assert not list(Path().glob(".x.md*"))
    for name in ("x.pdf", "x", "folder/"):
        code, _, err = hfgen("compare", "nothing/at/all", "--output", name)
        assert code == 2
        assert ".md, .html, .png, .svg" in err
    code, _, err = hfgen("compare", "a", "--output", "x.md/y.md")
    assert code == 1
    assert "cannot be written" in err


def test_nothing_to_plot(put, hfgen):
    put("a", {"values": {"recall": {"value": 0.5}}})
    code, _, err = hfgen("compare", "a", "--output", "x.png")
    assert code == 2
    assert "no result has both a FID and seconds per image" in err
    assert hfgen("compare", "a", "--output", "x.html")[0] == 0
    assert "<img" not in Path("x.html").read_text()


# --- the plot ---------------------------------------------------------------------------------------------------


def lines_of(drawn):
    return {bar.get_label(): bar for bar in drawn.axes[0].containers}


def test_a_line_through_the_numbers_of_steps(put):
    for steps in (100, 9, 20):
        put("walk", steps=steps, stem=f"steps{steps}", fid=(200 / steps, 0.5))
    seconds = {"values.seconds_per_image": {"value": 0.001}}
    c = compare(
        [put("a", seconds, fid=(5, 0.1)), put("walk", steps=30, stem="ode", fid=(1, 0.5)), put("_b$x", seconds)]
    )
    drawn = figure(c)
    axes, lines = drawn.axes[0], lines_of(drawn)
    assert list(lines) == ["a", "walk", r" _b\$x"]
    x, y = lines["walk"].lines[0].get_data()
    assert list(x) == [0.09, 0.2, 0.3, 1.0]
    assert list(y) == [200 / 9, 10, 1, 2]
    bars = lines["walk"].lines[2][0].get_segments()
    assert bars[1][0][1] == pytest.approx(9.0)  # two errors below
    assert bars[1][1][1] == pytest.approx(11.0)
    assert [note.get_text() for note in axes.texts] == ["9", "20", "30", "100"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    floor = [line for line in axes.lines if line.get_label() == "real images (the floor)"]
    assert list(floor[0].get_ydata()) == [c.floor["fid"]["value"]] * 2
    assert {words.get_text() for words in drawn.legends[0].texts} == {*lines, "real images (the floor)"}


def test_near_values_stay_on_a_plain_axis(put):
    floor = {"floor.fid": {"value": 1.5}, "values.seconds_per_image": {"value": 1.0}}
    axes = figure(compare([put("a", floor, fid=(2, 0.1)), put("b", floor, fid=(3, 0.1))])).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")


def test_solvers_and_machines_are_lines_of_their_own(put):
    put("walk", steps=9, stem="9")
    put("walk", steps=10, stem="10")
    scheduler = {"sampler.scheduler": "Other", "sampler.options": {"num_inference_steps": 10}}
    put("walk", {**scheduler, "sampler.config": {"order": 2}}, stem="other")
    c = compare([put("walk", {"hardware.processor": "Abacus"}, steps=20, stem="20")])
    assert [row.sampler for row in c.rows] == ["Other, 10 steps", *(f"Stepping, {k} steps" for k in (9, 10, 20))]
    assert len(lines_of(figure(c))) == 3
    assert all(label.endswith((" (a)", " (b)")) for label in lines_of(figure(c)))
    assert "on different hardware" in figure(c).axes[0].get_xlabel()


# --- the command ------------------------------------------------------------------------------------------------


def test_comparing_folders_imports_no_torch(put, tmp_path):
    code = (
        "import sys\nfrom hfgen.commands.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "print('heavy', sorted({'torch', 'diffusers', 'matplotlib', 'datasets', 'accelerate'} & set(sys.modules)))"
    )
    out = subprocess.check_output([sys.executable, "-c", code, "compare", put("a"), put("b")], text=True)
    assert out.splitlines()[-1] == "heavy []"
