"""Results where they lie: folders, files and repositories; records of another shape are refused."""

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from compared import BOUND, likelihood
from hub_server import HubServer

from hfgen.errors import UsageError
from hfgen.results.comparison import compare
from hfgen.results.records import Result, read_results, write


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
        ("x", '{"metric": "evaluation"}', "r.json is not a result .*\n  protocol.name, protocol.num_images"),
        ("x", "[" * 100_000, "r.json cannot be read"),
    ],
)
def test_a_target_without_results(tmp_path, monkeypatch, put, name, content, message):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    if content is not None:
        (Path(name) / "r.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        compare(["x"])


def test_a_target_without_results_is_left_out_and_named(put, tmp_path):
    for name in ("started", "runs/other"):
        Path(name).mkdir(parents=True)
    Path("notes.txt").write_text("{}")
    put("a"), put("b")
    found = compare(["started", "a", "notes.txt", "runs/other", "b"])
    assert [row.name for row in found.rows] == ["a", "b"]
    assert found.notes[-1].startswith("Without a result, and left out: started, notes.txt, runs/other. ")
    with pytest.raises(UsageError, match="There is no ./nothing"):  # which is misspelt, not without a result
        compare(["a", "./nothing"])


def test_other_things_are_no_targets(tmp_path, put):
    (tmp_path / "env.json").write_text("{}")
    with pytest.raises(UsageError, match=r"env.json is not a result .*\n  hfgen evaluate TARGET"):
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
    with pytest.raises(UsageError, match=f"missing, or of another type:\n  {path.replace('/', '.')}"):
        compare([put("a", {**changes, path: value})])


def test_an_infinite_number(put, tmp_path):
    file = Path(put("a", {"values.fid": {"value": 12345.5}})) / "evaluation" / "result.json"
    file.write_text(file.read_text().replace("12345.5", "1e999"))
    with pytest.raises(UsageError, match="values.fid"):
        compare([str(tmp_path / "a")])


def test_records_of_the_reference_models():
    """Files that were written before `Result` was a class are read, and written again as they were."""
    files = sorted((Path(__file__).parents[2] / "model_cards").glob("*/evaluation/mnist-v1-*.json"))
    assert len(files) >= 7
    for file in files:
        record = json.loads(file.read_text())
        written = Result.from_dict(record, file).to_dict()
        assert written == record
        assert list(written) == list(record)


def test_optional_keys(put):
    """Of what hfgen wrote before, some keys are absent; what another version adds is dropped."""
    folder = put("a", {"newer": 1, "warning": None, "changed": None})
    (result,) = read_results(Path(folder))
    assert (result.warning, result.changed, result.command[:14]) == (None, {}, "hfgen evaluate")
    assert "newer" not in result.to_dict()
    with pytest.raises(FrozenInstanceError):
        result.name = "another"


def test_what_older_tools_measured_is_left_out(put):
    folder = Path(put("a"))
    (folder / "evaluation" / "log_likelihood.json").write_text('{"metric": "log_likelihood", "nats": -93.0}')
    assert [result.path.stem for result in read_results(folder)] == ["result"]
    (folder / "evaluation" / "log_likelihood.json").write_text('{"nats": -93.0}')
    with pytest.raises(UsageError, match="log_likelihood.json is not a result of `hfgen evaluate`"):
        read_results(folder)


@pytest.mark.parametrize(
    ("change", "joins"), [({}, True), ({"likelihood": {**BOUND, "options": {"k": 8}}}, False), ({"python": "4"}, True)]
)
def test_values_found_in_the_same_way_join(put, change, joins):
    first = {"values": {"recall": {"value": 0.5}}, "likelihood": {**BOUND, "options": {"k": 5}}}
    (old,) = read_results(Path(put("a", first)))
    (new,) = read_results(Path(put("b", {"values": {"fid": {"value": 1.0}}, "likelihood": None, **change})))
    written = write(old.path.parents[1], "result", replace(new, model=old.model))
    assert list(written.values) == (["fid", "recall"] if joins else ["fid"])
    assert read_results(old.path.parents[1]) == [written]


@pytest.mark.parametrize(
    ("key", "value", "joins"),
    [
        ("preprocessing", "features standard" + "ised", True),  # its words have changed since
        ("citation", "another", True),
        ("weights_sha256", 64 * "0", False),
        ("name", "another", False),
    ],
)
def test_values_join_in_the_features_of_one_network(put, key, value, joins):
    (old,) = read_results(Path(put("a", {"values": {"recall": {"value": 0.5}}, f"extractor.{key}": value})))
    (new,) = read_results(Path(put("b", {"values": {"fid": {"value": 1.0}}})))
    written = write(old.path.parents[1], "result", replace(new, model=old.model))
    assert list(written.values) == (["fid", "recall"] if joins else ["fid"])
    assert written.extractor == new.extractor


def test_values_do_not_join_where_only_one_result_compares_features(put):
    (old,) = read_results(Path(put("a", {"values": {"parameters": {"value": 5.0}}, "extractor": None})))
    (new,) = read_results(Path(put("b", {"values": {"fid": {"value": 1.0}}})))
    assert list(write(old.path.parents[1], "result", replace(new, model=old.model)).values) == ["fid"]


COMPARING_REPOSITORIES = """
import json, pathlib
from hfgen.errors import UsageError
from hfgen.hub.download import local_folder
from hfgen.results.comparison import compare

c = compare(["org/published", "org/bare"], fetch=local_folder)
print(json.dumps([[row.name, row.values["fid"].get("mark")] for row in c.rows]))
pathlib.Path("evaluations").rename("elsewhere")
try:
    compare(["org/bare"], fetch=local_folder)
except UsageError as error:
    print(error)
"""


def test_repositories(put, tmp_path, processes):
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
        environment = server.environment(tmp_path / "home")
        out = processes.output(COMPARING_REPOSITORIES, environment=environment, cwd=tmp_path / "work")
    found, refused = out.split("\n", 1)
    assert json.loads(found) == [["published", "best"], ["bare", None]]
    assert server.files_asked() == {"evaluation/result.json"}
    assert "org/bare holds no result of `hfgen evaluate`" in refused
