"""The readers of what strangers write, with values that nobody thought of: an error of hfgen's own, or the thing.

Seen on the way: PyYAML raises ValueError, KeyError, IndexError and AttributeError of tags and dates.
"""

import json
import os
import shutil
import struct

import pytest
import yaml
from attacks import CONFIG, DEEP, PRIOR, SHARDS, WEIGHTS
from hypothesis import HealthCheck, example, given, settings, strategies as st
from plugin_site import install_toy, on_path

from hfgen import HFGenPipeline
from hfgen.commands.recipes import read_recipe
from hfgen.errors import HFGenError, UsageError
from hfgen.files import parse_json, parse_yaml
from hfgen.registry import get_family
from hfgen.results import records
from hfgen.settings.resolve import resolve

settings.register_profile(
    "hfgen",
    max_examples=int(os.environ.get("HFGEN_FUZZ", "15")),
    derandomize="CI" in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("hfgen")

WORDS = st.sampled_from(
    ["os", "system", "deep_family", "DeepGenerator", "DeepPipeline", "PriorScheduler", "hfgen.scheduler", "diffusers",
     "DDPMScheduler", "AutoencoderKL", "..", "../x", "/etc/passwd", "", "meta", "cuda", "normal", "\x00", "nan"]
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-3, 20), st.integers(), st.sampled_from([2**20, 2**31, 2**64, 10**400]), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PAIRS = st.lists(WORDS, min_size=2, max_size=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    install_toy(site, "deep", "deep_family", DEEP)
    with on_path(site):
        import deep_family

        folder = tmp_path_factory.mktemp("saved") / "deep"
        deep_family.DeepPipeline.build(4, 1).save_pretrained(folder)
        yield folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "deep")


def load(folder, name, content):
    """With this file; then the file is as it was."""
    path = folder / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    said = None
    try:
        HFGenPipeline.from_pretrained(folder)
    except HFGenError as error:
        said = str(error)
    finally:
        path.unlink() if before is None else path.write_bytes(before)
    assert said is None or (str(folder) in said and len(said.splitlines()) <= 6)


@given(
    st.dictionaries(
        st.sampled_from(["_class_name", "_hfgen", "generator", "scheduler", "critic", "extra", "_x", "../x"]),
        VALUES | PAIRS,
        max_size=4,
    )
)
@pytest.mark.whole
def test_an_index(folder, entries):
    load(folder, "model_index.json", {**json.loads((folder / "model_index.json").read_text()), **entries})


@given(
    st.dictionaries(
        st.sampled_from(["sample_size", "latent_dim", "width", "depth", "table_size", "_class_name", "x"]),
        VALUES,
        max_size=3,
    )
)
@example({"depth": 2**20})
@example({"width": 2**20, "sample_size": 4096})
@pytest.mark.whole
def test_a_config_of_a_network(folder, entries):
    load(folder, CONFIG, {**json.loads((folder / CONFIG).read_text()), **entries})


@given(
    st.dictionaries(
        st.sampled_from(["latent_shape", "distribution", "temperature", "truncation", "num_train_timesteps", "x"]),
        VALUES,
        max_size=3,
    )
)
@pytest.mark.whole
def test_a_config_of_a_scheduler(folder, entries):
    load(folder, PRIOR, {**json.loads((folder / PRIOR).read_text()), **entries})


@given(st.sampled_from(["model_index.json", CONFIG, PRIOR, SHARDS, WEIGHTS]), st.binary(max_size=64) | VALUES)
@pytest.mark.whole
def test_other_content(folder, name, content):
    load(folder, name, content)


@given(
    st.dictionaries(
        st.sampled_from(["inner.weight", "inner.bias", "x", "__metadata__"]),
        VALUES
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "I64", "BOOL", "X"]),
                "shape": st.lists(st.integers(0, 9) | st.just(2**60), max_size=3),
                "data_offsets": st.lists(st.integers(0, 99), min_size=2, max_size=2),
            }
        ),
        max_size=4,
    ),
    st.binary(max_size=99),
)
def test_a_header_of_weights(folder, header, data):
    written = json.dumps(header).encode()
    load(folder, WEIGHTS, struct.pack("<Q", len(written)) + written + data)


@settings(max_examples=200)
@given(st.text(st.sampled_from('[]{}",:\\ a1-e.tn'), max_size=60) | st.text(max_size=60))
@pytest.mark.whole
def test_any_json(text):
    """As Python's own parser reads it."""
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            parse_json(text)
    else:
        assert repr(parse_json(text)) == repr(expected)


@settings(max_examples=200)
@given(st.text(st.sampled_from("[]{}&*!<:-|>'\"#%@`?,\n ab019.~="), max_size=40) | st.text(max_size=40))
@example("a: 2001-99-99")
@example("!!int ''")
@example("!!bool x")
@example("!!timestamp x")
@example("a: &a [*a]")
@example("? [1]\n: 2")
@example("1:" * 99)
def test_any_yaml(text):
    said = ""
    try:
        parse_yaml(text)
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


@given(
    st.dictionaries(
        st.sampled_from(["model", "dataset_name", "max_train_steps", "learning_rate", "generator", "seed", "use_ema"])
        | st.text(max_size=9),
        VALUES,
        max_size=4,
    )
)
def test_a_recipe(saved, tmp_path, entries):
    """Read, and resolved to a training of the family."""
    path, said = tmp_path / "recipe.yaml", ""
    try:
        path.write_text(yaml.safe_dump(entries), encoding="utf-8")
        found = read_recipe(path)
        family = get_family("deep").load()
        resolve([(str(path), {key: value for key, value in found.items() if key != "model"})], "deep", family)
    except UnicodeEncodeError:
        pass  # no file can hold it
    except UsageError as error:
        said = str(error)
    assert len(said.splitlines()) <= 6


@given(
    VALUES | st.fixed_dictionaries({"metric": st.just("evaluation")}, optional={"values": VALUES, "sampler": VALUES})
)
def test_a_result(tmp_path, record):
    (tmp_path / "evaluation").mkdir(exist_ok=True)
    (tmp_path / "evaluation" / "r.json").write_text(json.dumps(record))
    with pytest.raises(UsageError):
        records.find(str(tmp_path))
