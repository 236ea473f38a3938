"""Every group of entry points obeys the same rules: families, models that a family wraps, extractors, formats."""

import json
import os

import click.testing
import pytest
from plugin_site import NOTED, install, install_classes, install_family, install_toy, on_path

from hfgen import HFGenPipeline, registry
from hfgen.commands.list_ import command as list_command
from hfgen.commands.plugins import command as plugins_command
from hfgen.conversion.converter import converter_of
from hfgen.errors import LoadError, PluginError, UsageError
from hfgen.evaluation.extractors import extractor_class
from hfgen.registry import COMPONENTS, CONVERTERS, EXTRACTORS, FAMILIES, GROUPS, MODALITIES

BUILT_IN = {group: next(entry for entry in registry.installed(group) if entry.is_built_in) for group in GROUPS}
LOOKED_UP = {
    FAMILIES: lambda name: registry.get_family(name).load(),
    COMPONENTS: lambda name: registry.load(COMPONENTS, name),
    EXTRACTORS: extractor_class,
    CONVERTERS: converter_of,
    MODALITIES: lambda name: type(registry.get_modality(name)),
}
every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages; which of its modules are imported is noted in $IMPORTED."""
    monkeypatch.setenv("IMPORTED", "")
    monkeypatch.delenv("HFGEN_PLUGINS", raising=False)
    monkeypatch.setattr(registry, "_registered", {})
    with on_path(tmp_path):
        yield tmp_path


def states(*options):
    """(state by kind, name and distribution, the result) of `hfgen plugins`."""
    result = click.testing.CliRunner().invoke(plugins_command, ["--json", *options])
    rows = json.JSONDecoder().raw_decode(result.stdout)[0]
    return {(row["kind"], row["name"], row["plugin"]): row["state"] for row in rows}, result


@every_group
def test_every_built_in_derives_from_its_base(group):
    for entry in registry.installed(group):
        assert entry.load().__name__ == entry.class_name


@every_group
def test_a_strangers_entry(site, group):
    """It is listed without an import, and loaded by its name."""
    install_classes(site, "toys", group, {"toy": "ToyClass"}, version="2.5")
    entry = next(entry for entry in registry.installed(group) if not entry.is_built_in)
    assert (entry.name, entry.source, entry.target) == ("toy", "toys 2.5", "toys:ToyClass")
    assert os.environ["IMPORTED"] == ""
    assert LOOKED_UP[group]("toy").__name__ == "ToyClass"


@every_group
@pytest.mark.parametrize("distribution", ["a-toy", "zz-toy"])
def test_a_built_in_name_cannot_be_taken(site, group, distribution):
    """The built-in stays usable, and the stranger's is shown as a conflict."""
    mine = BUILT_IN[group]
    install_classes(site, distribution, group, {mine.name: "ToyClass"})
    assert LOOKED_UP[group](mine.name).__module__ == mine.module
    assert registry.find(group, mine.name) == mine
    seen, result = states("--check")
    assert seen[group.noun, mine.name, mine.source] == "ok"
    assert seen[group.noun, mine.name, f"{distribution} 1.0"] == f"clashes with {mine.name!r} of {mine.source}"
    assert result.exception.exit_code == 3
    assert os.environ["IMPORTED"] == ""


@pytest.mark.parametrize(
    ("what", "group"), [("models", FAMILIES), ("extractors", EXTRACTORS), ("formats", CONVERTERS)]
)
def test_a_conflict_is_listed(site, what, group):
    mine = BUILT_IN[group]
    install_classes(site, "toys", group, {mine.name: "ToyClass"})
    rows = json.loads(click.testing.CliRunner().invoke(list_command, [what, mine.name, "--json"]).stdout)
    assert [(row["plugin"], row["state"]) for row in rows] == [
        (mine.source, ""),
        ("toys 1.0", f"clashes with {mine.name!r} of {mine.source}"),
    ]


@every_group
def test_two_strangers_of_one_name(site, group, monkeypatch):
    install_classes(site, "one-toy", group, {"toy": "OneClass"})
    install_classes(site, "two-toy", group, {"toy": "TwoClass"}, version="2.0")
    claims = rf"2 distributions claim the {group.noun} 'toy': one-toy 1\.0 .*two-toy 2\.0 .*\n.*HFGEN_PLUGINS="
    with pytest.raises(PluginError, match=claims):
        LOOKED_UP[group]("toy")
    assert states()[0][group.noun, "toy", "one-toy 1.0"] == "clashes with 'toy' of two-toy 2.0"
    assert os.environ["IMPORTED"] == ""
    monkeypatch.setenv("HFGEN_PLUGINS", "two-toy")
    assert LOOKED_UP[group]("toy").__name__ == "TwoClass"


@every_group
@pytest.mark.parametrize(("listed", "count"), [(None, 2), ("", 0), ("toys", 1), ("other.toys, TOYS", 2)])
def test_the_allow_list(site, group, monkeypatch, listed, count):
    install_classes(site, "toys", group, {"toy": "ToyClass"})
    install_classes(site, "other-toys", group, {"other": "OtherClass"})
    if listed is not None:
        monkeypatch.setenv("HFGEN_PLUGINS", listed)
    entries = registry.installed(group)
    assert len([entry for entry in entries if not entry.is_built_in]) == count
    assert BUILT_IN[group] in entries
    assert (registry.find(group, "toy") is not None) == (count > 0)


@every_group
def test_a_disabled_name_says_how_to_enable_it(site, group, monkeypatch):
    install_classes(site, "toys", group, {"toy": "ToyClass"}, version="2.5")
    monkeypatch.setenv("HFGEN_PLUGINS", "")
    said = r"'toy' belongs to toys 2\.5, which HFGEN_PLUGINS leaves out\.\n.*HFGEN_PLUGINS=toys"
    with pytest.raises((PluginError, UsageError), match=said):
        LOOKED_UP[group]("toy")


@every_group
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import gone_library", "failed to import: ModuleNotFoundError: No module named 'gone_library'"),
        ("", "failed to import: AttributeError"),
        ("ToyClass = 3", "is not a {base}: toys:ToyClass"),
        ("class ToyClass: pass", "is not a {base}: toys:ToyClass"),
    ],
)
@pytest.mark.whole
def test_a_broken_entry_hurts_only_who_asks_for_it(site, group, source, words):
    install(site, "toys", {"toy": "toys:ToyClass"}, {"toys": NOTED + source}, "2.5", group)
    assert LOOKED_UP[group](BUILT_IN[group].name)
    assert os.environ["IMPORTED"] == ""
    message = rf"{group.noun.capitalize()} 'toy' of toys 2\.5 {words.format(base=group.base_name)}"
    with pytest.raises(PluginError, match=message):
        LOOKED_UP[group]("toy")
    seen, result = states("--check")
    assert seen[group.noun, "toy", "toys 2.5"].startswith(f"{group.noun.capitalize()} 'toy' of toys 2.5 ")
    assert result.exception.exit_code == 3
    assert "1 of" in str(result.exception)


@pytest.mark.parametrize("group", [COMPONENTS, EXTRACTORS, CONVERTERS], ids=lambda group: group.name)
def test_an_unknown_name_is_wrong_usage(group):
    name = BUILT_IN[group].name
    with pytest.raises(UsageError, match=f"No {group.noun} is called '{name}x'. Did you mean '{name}'"):
        LOOKED_UP[group](name + "x")


# --- HFGEN_PLUGINS names no distribution ------------------------------------------------------------------------


def test_a_family_instead_of_its_distribution(site, monkeypatch):
    install_family(site, "hfgen-toys", {"toy": "ToyPipeline"})
    monkeypatch.setenv("HFGEN_PLUGINS", "toy,hfgen-toy")
    said = [
        "HFGEN_PLUGINS names 'hfgen-toy', but no installed plugin distribution is called that."
        " Did you mean 'hfgen-toys'?",
        "HFGEN_PLUGINS names 'toy', but no installed plugin distribution is called that."
        " The family 'toy' is of the distribution 'hfgen-toys'.",
    ]
    assert registry.misspelled_plugins() == said
    for command in (list_command, plugins_command):
        assert click.testing.CliRunner().invoke(command, []).stderr.splitlines() == said
    with pytest.raises(PluginError, match="names 'hfgen-toy', but"):
        registry.get_family("something")
    monkeypatch.setenv("HFGEN_PLUGINS", "hfgen_Toys,hfgen")
    assert registry.misspelled_plugins() == []


def test_a_saved_model_of_a_disabled_plugin(site, tmp_path, monkeypatch):
    """The error says that the plugin is disabled, not that it is to be installed."""
    install_toy(site)
    registry.get_family("toy").load().build(4, 1).save_pretrained(tmp_path / "saved")
    monkeypatch.setenv("HFGEN_PLUGINS", "")
    with pytest.raises(
        PluginError, match=r"toy-plugin 1\.0, which HFGEN_PLUGINS leaves out\.\n.*=toy-plugin"
    ) as caught:
        HFGenPipeline.from_pretrained(tmp_path / "saved")
    assert "nstall" not in str(caught.value).replace("installed", "")


def test_a_component_of_a_disabled_plugin(site, tmp_path, monkeypatch):
    install_toy(site)
    pipeline_class = registry.get_family("toy").load()
    pipeline_class.build(4, 1).save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    other = BUILT_IN[FAMILIES].load()
    index |= {"_class_name": other.__name__, "_hfgen": {}}
    (tmp_path / "saved" / "model_index.json").write_text(json.dumps(index))
    index |= {"generator": ["toy_family.networks", "ToyGenerator"], "critic": ["toy_family.networks", "ToyCritic"]}
    monkeypatch.setenv("HFGEN_PLUGINS", "")
    for text in ((tmp_path / "saved" / "model_index.json").read_text(), json.dumps(index)):  # a module of its package
        (tmp_path / "saved" / "model_index.json").write_text(text)
        with pytest.raises(LoadError, match=r"toy-plugin 1\.0, which HFGEN_PLUGINS leaves out") as caught:
            HFGenPipeline.from_pretrained(tmp_path / "saved")
        assert "nstall the plugin" not in str(caught.value)
