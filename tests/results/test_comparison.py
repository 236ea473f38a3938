"""Results side by side: rows, samplers, likelihoods, costs, and the rules that all targets share."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from compared import BOUND, EXACT, likelihood, marks

from hfgen.commands.compare import text
from hfgen.errors import UsageError
from hfgen.results.comparison import compare
from hfgen.results.page import tables
from hfgen.results.protocol import read_protocol


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


def test_comparing_folders_imports_no_torch(put, tmp_path):
    code = (
        "import sys\nfrom hfgen.commands.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "print('heavy', sorted({'torch', 'diffusers', 'matplotlib', 'datasets', 'accelerate'} & set(sys.modules)))"
    )
    out = subprocess.check_output([sys.executable, "-c", code, "compare", put("a"), put("b")], text=True)
    assert out.splitlines()[-1] == "heavy []"
