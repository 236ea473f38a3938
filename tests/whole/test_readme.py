"""README.md and docs/*.md: commands name what exists, the Python runs, links lead somewhere, the words are plain."""

import re
import shlex

import click
import pytest
import torch
from pages import LINKED, PAGES, ROOT, anchors, blocks, commands, links, name_of, without_code
from test_prose import PHRASES

from hfgen.commands import main
from hfgen.commands.options import split_dotted
from hfgen.noise import StepNoise
from hfgen.registry import get_family
from hfgen.settings.resolve import resolve

COMMANDS = sorted({line for page in PAGES for line in commands(page)})
README, DOCS = PAGES[0], ROOT / "docs"
TINY = {
    "dcgan": {"generator.base_channels": 4, "generator.latent_dim": 6, "discriminator.base_channels": 4},
    "vae": {"encoder.base_channels": 4, "decoder.base_channels": 4},
    "glow": {"flow.num_steps": 1, "flow.hidden_channels": 4},
    "flow_matching": {"unet.block_out_channels": [8, 8, 8], "unet.norm_num_groups": 2},
    "ddpm": {"unet.block_out_channels": [8, 8, 8], "unet.norm_num_groups": 2},
}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    """Verbs, options and their values are what the command line knows."""
    verb, *words = shlex.split(line)[1:]
    command = main.cli.commands[verb]
    context = main.cli.make_context("hfgen", [verb, *words])
    assert isinstance(command, click.Command)
    with context:
        sub = command.make_context(verb, list(words), parent=context)
    assert sub.params
    for name, options in split_dotted(words)[1].items() if verb == "train" else ():
        family = get_family(words[0]).load()
        resolve([("README", {name: options})], words[0], family)


def test_commands_were_found():
    assert len(COMMANDS) > 60


# --- the Python -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the Python of a page on a tiny model under the page's name; returns the names that it leaves."""
    monkeypatch.chdir(tmp_path)

    def run(page, family, size=28):
        pipeline = get_family(family).load().build(size, 1, **TINY[family])
        batch = {"pixel_values": torch.rand(4, 1, size, size) * 2 - 1}
        pipeline.objective_class.initialize(pipeline, batch, StepNoise(0, 0, slice(0, 4), 4))
        pipeline.save_pretrained(f"runs/{family}-mnist-mini")
        names = {}
        for block in blocks(page, "python"):
            exec(compile(block, name_of(page), "exec"), names)
        return names

    return run


def test_the_python_of_the_readme_runs(run):
    names = run(README, "dcgan", size=16)
    assert len(names["images"]) == 16
    assert names["image"].size == (16, 16)


def test_the_python_about_gans_runs(run):
    names = run(DOCS / "gan.md", "dcgan", size=16)
    assert len(names["images"]) == 16
    assert len(names["frames"]) == 30


@pytest.mark.whole
def test_the_python_about_vaes_runs(run, capsys):
    names = run(DOCS / "vae.md", "vae")
    assert "bits per dimension of 2 values (lower bound, 500 importance samples; mean of 8)" in capsys.readouterr().out
    assert names["reconstructions"].shape == names["images"].shape


@pytest.mark.whole
def test_the_python_about_flows_runs(run, capsys):
    names = run(DOCS / "flow.md", "glow")
    assert names["latents"].shape == (8, 784)
    assert "of 256 values (lower bound, 8 importance samples; mean of 8)" in capsys.readouterr().out
    assert (names["between"].abs() <= 1).all()


@pytest.mark.whole
def test_the_python_about_diffusion_runs(run, capsys):
    names = run(DOCS / "diffusion.md", "ddpm")
    assert names["again"].shape == names["noise"].shape == (4, 1, 28, 28)
    assert "(lower bound, variational bound, 21 of 1,000 levels" in (out := capsys.readouterr().out)
    assert "(estimate, probability-flow ODE, 10 Runge-Kutta steps" in out
    assert len(names["fast"]) == len(names["like_it"]) == 3
    assert names["filled"][0].size == (28, 28)


@pytest.mark.whole
def test_the_python_about_flow_matching_runs(run, capsys):
    names = run(DOCS / "flow-matching.md", "flow_matching")
    assert names["again"].shape == names["noise"].shape == (2, 1, 28, 28)
    assert "(estimate, probability-flow ODE, adaptive solver," in capsys.readouterr().out
    assert len(names["pictures"]) == 3


AFTER = """
TestRAE.in_processes = False


def test_what_the_page_says():
    import pytest

    from hfgen import UsageError

    assert len(pictures) == 3
    assert again.shape == (4, 1, 28, 28)
    assert features.shape == (4, 3)
    with pytest.raises(UsageError, match="seeds"):
        pipeline.encode(images.tensor(range(2)), seeds=[1])


def test_the_converter_reads(tmp_path):
    from safetensors.torch import save_file

    tensors = {"0.weight": torch.zeros(256, 16), "0.bias": torch.ones(256)}
    save_file(tensors, tmp_path / "old_decoder.safetensors")
    source = ForeignFiles(tmp_path, "old")
    assert OldDecoder.recognizes(source)
    conversion = OldDecoder.read(source, {}, None)
    state = conversion.build().decoder.state_dict()
    assert {name: state[name].shape for name in conversion.weights["decoder"]} == {
        name: tensor.shape for name, tensor in conversion.weights["decoder"].items()
    }
"""


@pytest.mark.timeout(600)  # a quarter of a minute on an idle machine
def test_the_family_of_the_guide_obeys_the_laws(tmp_path, processes):
    """The guide's first block as a module, the others as a test file with the family's laws."""
    family, *others = blocks(DOCS / "plugins.md", "python")
    (tmp_path / "hfgen_rae.py").write_text(family)
    (tmp_path / "test_rae.py").write_text("\n\n".join(["from hfgen_rae import *", *others, AFTER]))
    words = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "test_rae.py"]
    done = processes.run("import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^(1[5-9]|2\d) passed", done.stdout.splitlines()[-1]), done.stdout


def test_the_python_of_the_page_on_texts(capsys):
    """The value that it prints is the one that stands beside it."""
    (block,) = blocks(DOCS / "text.md", "python")
    exec(compile(block, "text.md", "exec"), {})
    assert capsys.readouterr().out.split()[0] == re.search(r"# (\d\.\d+)$", block, re.MULTILINE)[1]


def test_every_page_with_python_is_run():
    """`publish.md` by test_readme_walk.py, the others above."""
    of_a_test = {
        "README.md",
        *(
            f"docs/{name}.md"
            for name in ("gan", "vae", "flow", "diffusion", "flow-matching", "plugins", "publish", "text")
        ),
    }
    assert {name_of(page) for page in PAGES if blocks(page, "python")} == of_a_test


# --- links and words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page):
    """To a file that is there, and to a heading of it."""
    lost = [
        f"{file.name}#{anchor}"
        for file, anchor in links(page)
        if not file.exists() or (anchor and anchor not in anchors(file))
    ]
    assert not lost


def test_the_readme_leads_to_every_page():
    linked = {file.resolve() for file, _ in links(README)}
    assert not [name_of(page) for page in PAGES[1:] if page not in linked]


def test_the_readme_fits_on_a_few_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("page", [p for p in LINKED if p.parent.name != "benchmarks"], ids=name_of)
def test_prose_is_plain_and_wrapped(page):
    """Words as those of docstrings; lines of at most 119 characters, tables and images aside."""
    text = without_code(page)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "![", "[!["))]
    assert not [line for line in lines if len(line) > 119]
    prose = re.sub(r"`[^`]*`", "", " ".join(text.split()))  # a name may be of before
    assert not [found[0] for found in PHRASES.finditer(prose)]


@pytest.mark.parametrize(
    "template", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()), ids=lambda path: path.name
)
def test_a_template_says_what_it_is_for(template):
    import yaml

    assert set(yaml.safe_load(template.read_text(encoding="utf-8").split("---\n")[1])) == {"name", "about", "labels"}


def test_every_target_of_make_exists():
    pages = [path.read_text(encoding="utf-8") for path in LINKED]
    named = {word for text in pages for line in re.findall(r"\bmake ([a-z -]+)", text) for word in line.split()}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {"test", "test-quick", "slow"} <= named & targets
    assert not {word for word in named if "-" in word} - targets


def test_the_test_command_is_what_ci_runs():
    assert "make test" in "\n".join(blocks(README, "sh"))
    assert "make test" in (ROOT / ".ci" / "run").read_text()


# --- the cards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", sorted((ROOT / "model_cards").glob("*/README.md")), ids=lambda path: path.parent.name)
def test_a_card_in_the_project_is_whole(card):
    """It parses, its pictures are there, its recipe is the config of the run, its environment names no path."""
    import yaml
    from huggingface_hub import ModelCard

    from hfgen.commands.recipes import list_recipes

    assert ModelCard.load(card).data.library_name == "hfgen"
    text = card.read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    assert len(pictures) >= 2
    assert all((card.parent / picture).is_file() for picture in pictures)
    recipe = yaml.safe_load(list_recipes()[card.parent.name].read_text())
    config = yaml.safe_load((card.parent / "config.yaml").read_text())
    for settings in (recipe, config):
        settings["dataset_name"] = settings["dataset_name"].rpartition("/")[2]  # of the Hub's, or a copy of it
    assert all(contains(config[name], value) for name, value in recipe.items())
    assert not re.search(r"(/home|/tmp|/root|/work)\b", card.read_text())


def contains(config, recipe):
    """Whether a config says what a recipe says, which may leave defaults out."""
    if isinstance(recipe, dict):
        return all(contains(config.get(name), value) for name, value in recipe.items())
    return config == recipe
