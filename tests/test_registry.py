"""Families of installed distributions: listed without an import, isolated, undisputed."""

import json
import os
import re
import sys
from importlib import metadata

import pytest
from plugin_site import NOTED, install, install_family, install_toy, on_path, run

from hfgen import HFGenPipeline, registry
from hfgen.commands.plugins import command as plugins_command
from hfgen.errors import PluginError

BUILT_IN = next(family for family in registry.list_families() if family.is_built_in)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages; which of its modules are imported is noted in $IMPORTED."""
    monkeypatch.setenv("IMPORTED", "")
    monkeypatch.delenv("HFGEN_PLUGINS", raising=False)
    monkeypatch.setattr(registry, "_registered", {})
    path = tmp_path / "site"
    path.mkdir()
    with on_path(path):
        yield path


def names():
    return [family.name for family in registry.list_families()]


def third_party():
    return [family for family in registry.list_families() if not family.is_built_in]


def plugins(*options):
    """Rows of `hfgen plugins` by family and distribution."""
    import click.testing

    result = click.testing.CliRunner().invoke(plugins_command, ["--json", *options])
    rows = json.JSONDecoder().raw_decode(result.stdout)[0]
    return {(row["name"], row["plugin"]): row["state"] for row in rows}, result


# --- listing imports nothing ------------------------------------------------------------------------------------


@pytest.fixture
def twenty(site):
    """Twenty distributions, the eighth broken."""
    for i in range(20):
        install_family(site, f"Many.Toys_{i:02}", {f"toy{i:02}": f"Toy{i:02}Pipeline"})
    (site / "many_toys_07.py").write_text(NOTED + "raise ZeroDivisionError('mend me')\n")
    return site


def test_listing_imports_no_plugin(twenty):
    listed = third_party()
    assert [family.name for family in listed] == [f"toy{i:02}" for i in range(20)]
    assert (listed[3].class_name, listed[3].module) == ("Toy03Pipeline", "many_toys_03")
    assert listed[3].source == "many-toys-03 1.0"
    assert registry.find_by_class("Toy12Pipeline") == listed[12]
    assert registry.get_family("toy12") == listed[12]
    assert os.environ["IMPORTED"] == ""


def test_loading_imports_one_plugin(twenty):
    loaded = registry.get_family("toy12").load()
    assert (loaded.__name__, issubclass(loaded, HFGenPipeline)) == ("Toy12Pipeline", True)
    assert os.environ["IMPORTED"] == "many_toys_12 "
    assert registry.family_of(loaded).name == "toy12"
    assert os.environ["IMPORTED"] == "many_toys_12 "


@pytest.mark.parametrize("verb", [["list"], ["plugins"]])
@pytest.mark.whole
def test_the_commands_import_neither_plugins_nor_the_stack(twenty, verb):
    code = (
        "import os, sys\nfrom hfgen.commands.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
        "    print('exit', stop.code, os.environ['IMPORTED'].split(), "
        "sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    *table, last = run(["-c", code, *verb], twenty).splitlines()
    assert last == "exit 0 [] []"
    assert [line.split()[0] for line in table if line.startswith("toy")] == [f"toy{i:02}" for i in range(20)]
    assert any(line.split()[:2] == [BUILT_IN.name, BUILT_IN.class_name] for line in table)


def test_a_broken_plugin_hurts_only_who_asks_for_it(twenty):
    assert registry.get_family("toy08").load()
    with pytest.raises(PluginError, match=r"'toy07' of many-toys-07 1\.0 .*ZeroDivisionError: mend me") as caught:
        registry.get_family("toy07").load()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert len(str(caught.value).splitlines()) <= 6


def test_plugins_check_tells_which_are_broken(twenty):
    states, result = plugins("--check")
    assert states["toy08", "many-toys-08 1.0"] == "ok"
    assert re.search(r"many-toys-07 1\.0 failed to import: ZeroDivisionError", states["toy07", "many-toys-07 1.0"])
    assert result.exception.exit_code == 3
    assert "1 of" in str(result.exception)
    assert set(plugins()[0].values()) == {"not imported"}


# --- plugins that are not what they claim to be -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import gone_library", "ModuleNotFoundError: No module named 'gone_library'"),
        ("def", "SyntaxError"),
        ("", "has no attribute 'ToyPipeline'"),
        ("ToyPipeline = 3", "is not a HFGenPipeline"),
        ("class ToyPipeline: pass", "is not a HFGenPipeline"),
        ("from diffusers import DDPMPipeline as ToyPipeline", "is not a HFGenPipeline"),
        ("raise SystemExit('no license')", "no license"),
    ],
)
def test_a_plugin_without_a_family(site, source, words):
    install(site, "toys", {"toy": "toys:ToyPipeline"}, {"toys": source}, version="2.5")
    try:
        with pytest.raises(PluginError, match=rf"'toy' of toys 2\.5 (?s:.*){words}"):
            registry.get_family("toy").load()
    except SystemExit as stop:
        raise AssertionError from stop  # pytest would stop, too


@pytest.mark.parametrize("target", ["toys:", ":ToyPipeline", "no target!"])
def test_an_entry_point_without_a_target_hurts_nobody_else(site, target):
    install(site, "toys", {"toy": target}, {})
    assert registry.get_family(BUILT_IN.name) == BUILT_IN
    with pytest.raises(PluginError, match=r"'toy' of toys 1\.0"):
        registry.get_family("toy").load()


def test_a_distribution_without_metadata_hurts_nobody_else(site):
    """As an interrupted uninstall leaves it."""
    install_family(site, "toys", {"toy": "ToyPipeline"})
    (site / "toys-1.0.dist-info" / "METADATA").unlink()
    assert registry.get_family(BUILT_IN.name) == BUILT_IN


# --- disputes ---------------------------------------------------------------------------------------------------


def test_two_distributions_of_one_name(site):
    install_family(site, "one-toy", {"toy": "OnePipeline"})
    install_family(site, "two-toy", {"toy": "TwoPipeline"}, version="2.0")
    with pytest.raises(PluginError, match=r"2 distributions claim the family 'toy': one-toy 1\.0.*two-toy 2\.0"):
        registry.get_family("toy")
    assert registry.find_by_class("TwoPipeline").distribution == "two-toy"
    assert plugins()[0]["toy", "one-toy 1.0"] == "clashes with 'toy' of two-toy 2.0"
    assert plugins()[0]["toy", "two-toy 2.0"] == "clashes with 'toy' of one-toy 1.0"
    assert os.environ["IMPORTED"] == ""


def test_two_distributions_of_one_class_name(site):
    install_family(site, "one-toy", {"one": "ToyPipeline"})
    install_family(site, "two-toy", {"two": "ToyPipeline"}, version="2.0")
    claim = r"2 distributions claim the pipeline class 'ToyPipeline': one-toy 1\.0.*two-toy 2\.0"
    with pytest.raises(PluginError, match=claim):
        registry.find_by_class("ToyPipeline")
    assert plugins()[0]["two", "two-toy 2.0"] == "clashes with 'one' of one-toy 1.0"
    assert os.environ["IMPORTED"] == ""


def test_a_dispute_is_settled_by_the_allow_list(site, monkeypatch):
    install_family(site, "one-toy", {"toy": "ToyPipeline"})
    install_family(site, "two-toy", {"toy": "ToyPipeline"})
    monkeypatch.setenv("HFGEN_PLUGINS", "two-toy")
    assert registry.get_family("toy").distribution == "two-toy"
    assert registry.find_by_class("ToyPipeline").distribution == "two-toy"


def test_a_disputed_class_name_is_not_loaded(site, tmp_path):
    install_toy(site)
    registry.get_family("toy").load().build(4, 1).save_pretrained(tmp_path / "saved")
    install_family(site, "impostor", {"a-toy": "ToyPipeline"})
    with pytest.raises(PluginError, match=r"'ToyPipeline': impostor 1\.0.*toy-plugin 1\.0"):
        HFGenPipeline.from_pretrained(tmp_path / "saved")
    assert os.environ["IMPORTED"] == ""


def test_a_family_of_a_disputed_class_name_is_not_had_by_its_name(site):
    """What it trains and saves could not be loaded, or would be loaded by another class."""
    install_family(site, "one-toy", {"one": "ToyPipeline"})
    install_family(site, "two-toy", {"two": "ToyPipeline"})
    install_family(site, "impostor", {"better": BUILT_IN.class_name})
    for name in ("two", "better"):
        with pytest.raises(PluginError, match="clashes with"):
            registry.get_family(name)


@pytest.mark.parametrize("distribution", ["a-toy", "zz-toy"])
def test_built_in_names_cannot_be_taken(site, distribution):
    """By whichever stands first on sys.path or in the alphabet."""
    install_family(site, distribution, {BUILT_IN.name: BUILT_IN.class_name})
    assert registry.get_family(BUILT_IN.name) == BUILT_IN
    assert registry.find_by_class(BUILT_IN.class_name) == BUILT_IN
    clash = f"clashes with '{BUILT_IN.name}' of {BUILT_IN.source}"
    assert plugins()[0][BUILT_IN.name, f"{distribution} 1.0"] == clash
    assert plugins()[0][BUILT_IN.name, BUILT_IN.source] == "not imported"
    assert plugins("--check")[1].exception.exit_code == 3
    assert distribution.replace("-", "_") not in sys.modules


def test_a_built_in_class_name_cannot_be_taken_under_another_name(site):
    install_family(site, "a-toy", {"a-toy": BUILT_IN.class_name})
    assert registry.find_by_class(BUILT_IN.class_name) == BUILT_IN
    assert plugins()[0]["a-toy", "a-toy 1.0"] == f"clashes with '{BUILT_IN.name}' of {BUILT_IN.source}"


def test_two_names_of_one_class_are_no_dispute(site):
    """A distribution may rename a family and keep its old name."""
    install_family(site, "toys", {"toy": "ToyPipeline", "old-toy": "ToyPipeline"})
    assert registry.find_by_class("ToyPipeline").class_name == "ToyPipeline"


# --- HFGEN_PLUGINS ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, {"one", "two"}),
        ("", set()),
        (" , ", set()),
        ("first-toy", {"one"}),
        ("FIRST_Toy", {"one"}),
        ("first.toy, second_toy", {"one", "two"}),
        ("one", set()),
        ("third-toy", set()),
        ("second__toy", {"two"}),
    ],
)
@pytest.mark.whole
def test_the_allow_list(site, monkeypatch, listed, expected):
    """Of distributions, their names as pip compares them; built-ins are never out."""
    install_family(site, "First_Toy", {"one": "OnePipeline"})
    install_family(site, "second-toy", {"two": "TwoPipeline"})
    if listed is not None:
        monkeypatch.setenv("HFGEN_PLUGINS", listed)
    assert set(names()) & {"one", "two"} == expected
    assert BUILT_IN.name in names()
    for name, class_name in {"one": "OnePipeline", "two": "TwoPipeline"}.items():
        found = registry.find_by_class(class_name)
        assert (found is not None) == (name in expected)
    assert registry.find_by_class(BUILT_IN.class_name) == BUILT_IN


# --- names that nobody has --------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_a_known_one(site):
    install_family(site, "toys", {"wonderful": "ToyPipeline"})
    with pytest.raises(PluginError, match=r"No family is called 'wunderful'\. Did you mean 'wonderful'\?"):
        registry.get_family("wunderful")
    with pytest.raises(PluginError, match=rf"'zzz'\. Known: .*{BUILT_IN.name}.*wonderful"):
        registry.get_family("zzz")
    assert registry.find_by_class("ZzzPipeline") is None


def test_every_built_in_entry_point_is_listed():
    points = metadata.distribution("hfgen").entry_points.select(group=registry.FAMILIES.name)
    assert {(f.name, f.class_name) for f in registry.list_families() if f.is_built_in} == {
        (point.name, point.attr) for point in points
    }
