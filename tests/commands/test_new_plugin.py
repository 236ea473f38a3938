"""`hfgen plugins new`: what it writes is a family that is found, trains and obeys the laws; it takes nobody's name."""

import json
import os
import re
import tomllib

import pytest
from plugin_site import install

from hfgen.testing import quiet_environment

pytestmark = pytest.mark.usefixtures("empty_folder")
TESTS = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
SLOW = "processes or fresh or leaves or exact"  # the laws that start processes, or train more than once


def test_what_is_written_is_a_family(hfgen, tmp_path, processes):
    """It is installed as its pyproject.toml says, found, and its own test file passes, with classes too."""
    assert hfgen("plugins", "new", "soft-vae")[0] == 0
    folder, site = tmp_path / "hfgen-soft-vae", tmp_path / "site"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    (module,) = folder.glob("*.py")
    install(site, project["name"], project["entry-points"]["hfgen.families"], {module.stem: module.read_text()})
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    words = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "-k", f"(Classes or zeros) and not ({SLOW})", "tests"]
    done = processes.run(TESTS, *words, cwd=folder, environment={**quiet_environment(), "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"(1[5-9]|2\d) passed", done.stdout.splitlines()[-1]), done.stdout


def test_what_is_written(hfgen, tmp_path):
    """All names follow from one; no placeholder is left; the license is the author's to choose."""
    code, out, _ = hfgen("plugins", "new", "hfgen-soft_vae", "--output_dir", "deep/here")
    assert (code, out.splitlines()[0]) == (0, "deep/here")
    folder = tmp_path / "deep" / "here"
    texts = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    module, test = "hfgen_soft_vae.py", "tests/test_hfgen_soft_vae.py"
    assert set(texts) == {".gitignore", "README.md", "pyproject.toml", module, test}
    assert not [name for name, text in texts.items() if "$" in text]
    assert max(len(line) for text in texts.values() for line in text.splitlines()) <= 119
    project = tomllib.loads(texts["pyproject.toml"])["project"]
    assert (project["name"], "license" in project) == ("hfgen-soft-vae", False)
    assert project["entry-points"] == {"hfgen.families": {"soft_vae": "hfgen_soft_vae:SoftVaePipeline"}}
    assert "No license" in texts["README.md"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Soft VAE", "Did you mean 'soft-vae'?"),
        ("2d", "begins with a letter"),
        ("soft--vae", "Did you mean 'soft-vae'?"),
        ("../up", "Did you mean 'up'?"),
        ("vae", "is taken by the family 'vae' of hfgen"),
        ("gan", "a module hfgen_gan is installed"),
        ("h-f-gen", "a class HFGenPipeline is installed"),
    ],
)
def test_other_names_are_refused(hfgen, tmp_path, name, said):
    code, _, err = hfgen("plugins", "new", name)
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("toy_site")
@pytest.mark.parametrize("listed", [None, ""])
def test_the_name_of_a_plugin_is_refused(hfgen, monkeypatch, listed):
    """Also where HFGEN_PLUGINS leaves the plugin out."""
    if listed is not None:
        monkeypatch.setenv("HFGEN_PLUGINS", listed)
    code, _, err = hfgen("plugins", "new", "toy")
    assert code == 2
    assert "taken by the family 'toy' of toy-plugin 1.0" in err


def test_nothing_is_overwritten(hfgen, tmp_path):
    (tmp_path / "hfgen-mine").mkdir()
    assert hfgen("plugins", "new", "mine")[::2] == (
        2,
        "hfgen: hfgen-mine exists; nothing was written. Name another folder: --output_dir DIR\n",
    )
    (tmp_path / "file").touch()
    assert hfgen("plugins", "new", "mine", "--output_dir", "file/below")[0] == 1
    assert not list((tmp_path / "hfgen-mine").iterdir())


def test_the_list_stays_as_it_is(hfgen):
    """A group of commands lists the plugins where no command is named."""
    rows = json.loads(hfgen("plugins", "--json")[1])
    assert {row["state"] for row in rows} == {"not imported"}
    code, out, err = hfgen("plugins", "old")
    assert (code, out) == (2, "")
    assert "No such command 'old'" in err
