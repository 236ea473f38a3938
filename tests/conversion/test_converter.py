"""Finding the converter of a format."""

import json

import command_line
import pytest
from foreign_models import HERE, refused
from plugin_site import install, on_path

from hfgen.conversion.convert import open_source
from hfgen.conversion.converter import converter_of, recognize
from hfgen.errors import PluginError, UsageError
from hfgen.registry import CONVERTERS, installed


def test_which_format(tmp_path):
    generator = HERE / "torchgan" / "generator.pt"
    refused(
        "No format is called 'torchgam'. Did you mean 'torchgan'?", generator, tmp_path / "a", "--format", "torchgam"
    )
    refused(
        "the format torchgan is always converted to dcgan",
        generator,
        tmp_path / "a",
        "--allow_pickle",
        "--model",
        "vae",
    )
    refused("is not a folder", tmp_path / "missing", tmp_path / "a", code=1)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("")
    refused("it holds notes.txt", tmp_path / "source", tmp_path / "a")
    assert recognize(open_source(str(generator), True)).name == "torchgan"


def test_formats_are_entry_points():
    names = [row["name"] for row in json.loads(command_line.hfgen("list", "formats", "--json").out)]
    assert names == ["diffusers", "pythae", "pytorch-dcgan", "studiogan", "torchgan"]
    for entry in installed(CONVERTERS):
        assert entry.load().name == entry.name


THEIRS = """
from hfgen import Converter
class Theirs(Converter):
    name, description = "theirs", "what they save"
    @classmethod
    def recognizes(cls, source): return source.has("theirs.json")
    @classmethod
    def read(cls, source, options, model): raise NotImplementedError
class Impostor(Theirs):
    name = "torchgan"
"""


OLD = """
class Old(Theirs):
    recognizes = Converter.recognizes
    @classmethod
    def recognises(cls, source): return True
class Half(Theirs):
    read = Converter.read
"""


def test_a_format_without_a_method(tmp_path):
    """The error names the distribution and what to rename; other formats stay usable."""
    names = {"old": "theirs:Old", "half": "theirs:Half", "theirs": "theirs:Theirs"}
    install(tmp_path / "site", "their-plugin", names, {"theirs": THEIRS + OLD}, group=CONVERTERS)
    (tmp_path / "source").mkdir()
    source = open_source(str(tmp_path / "source"), False)
    renamed = r"'old' of their-plugin 1\.0 does not define .*recognizes \(rename its recognises to recognizes\)"
    with on_path(tmp_path / "site"):
        for name, words in (("old", renamed), ("half", r"'half' of .* does not define Converter\.read: theirs:Half")):
            with pytest.raises(PluginError, match=words):
                converter_of(name)
        with pytest.raises(UsageError, match=renamed):
            recognize(source)
        (tmp_path / "source" / "theirs.json").write_text("{}")
        assert recognize(source).name == "theirs"


def test_a_plugins_format(tmp_path, monkeypatch):
    """It is recognized; a broken one hurts only who asks for it; a built-in's name stays the built-in's."""
    names = {"theirs": "theirs:Theirs", "torchgan": "theirs:Impostor", "broken": "theirs:Missing", "odd": "json:loads"}
    install(tmp_path / "site", "their-plugin", names, {"theirs": THEIRS}, group=CONVERTERS)
    (tmp_path / "source").mkdir()
    source = open_source(str(tmp_path / "source"), False)
    with on_path(tmp_path / "site"):
        with pytest.raises(UsageError, match=r"'broken' of their-plugin 1\.0 failed to import: AttributeError"):
            recognize(source)
        (tmp_path / "source" / "theirs.json").write_text("{}")
        assert recognize(source).name == "theirs"
        assert converter_of("torchgan").__module__ == "hfgen_gan.converters"
        with pytest.raises(PluginError, match=r"'odd' of their-plugin 1\.0 is not a Converter"):
            converter_of("odd")
        (tmp_path / "source" / "model_config.json").write_text("{}")
        with pytest.raises(UsageError, match="can be read in several ways: pythae, theirs. Choose one with --format"):
            recognize(source)
        monkeypatch.setenv("HFGEN_PLUGINS", "")
        assert recognize(source).name == "pythae"
