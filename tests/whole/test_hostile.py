"""Attacks by a folder or a repository: one clear error each, nothing is run, and memory stays what it was."""

import json
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest
from attacks import ATTACKS, CONFIG, DEEP, LOCAL_ATTACKS, WEIGHTS, many_tensors
from hub_child import HubChild
from hub_server import HubServer
from plugin_site import install_toy, on_path
from refusals import edit, refuse

from hfgen import HFGenPipeline
from hfgen.errors import HFGenError

MEMORY = 600 << 20  # bytes by which the peak may grow; an attack asks for gigabytes

# Loads a repository; answers with the message, and by how much the memory's peak grew.
CHILD = """
import resource
import torch, diffusers
from hfgen import HFGenPipeline

def answer(label):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        HFGenPipeline.from_pretrained(f"org/{label}")
        message = None
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    return message, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    install_toy(site, "deep", "deep_family", DEEP)
    with on_path(site):
        yield site


@pytest.fixture(scope="module")
def saved(site, tmp_path_factory):
    import deep_family

    folder = tmp_path_factory.mktemp("saved") / "deep"
    deep_family.DeepPipeline.build(4, 1).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "deep")


@pytest.mark.parametrize("attack", [*ATTACKS, *LOCAL_ATTACKS])
@pytest.mark.whole
def test_a_folder(folder, attack, monkeypatch):
    damage, words = {**ATTACKS, **LOCAL_ATTACKS}[attack]
    ran = folder.parent / "ran"
    monkeypatch.syspath_prepend(folder)  # a script's own folder is on the path, too
    damage(folder, ran)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if words is None:
        HFGenPipeline.from_pretrained(folder)
    else:
        refuse(folder, words, error=HFGenError)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY
    assert not ran.exists()
    assert "modeling_deep" not in sys.modules


@pytest.mark.whole
def test_how_many_parts_a_network_has_is_not_for_the_weights_to_say(folder, monkeypatch):
    """Empty tensors cost nothing, and parts take time: there is a bound, whatever the header lists."""
    monkeypatch.setattr("hfgen.repository.fit.MOST_PARTS", 3000)
    many_tensors(folder, None)
    refuse(folder, "asks for more than 3,000 parts, and the weights hold 10,000 tensors")


@pytest.fixture(scope="module")
def loads(saved, site, tmp_path_factory, processes):
    """label -> (message, kilobytes) of the same attacks by repositories; what was asked for; whether code ran."""
    root = tmp_path_factory.mktemp("repositories")
    with HubServer() as hub:
        for label, (damage, _) in ATTACKS.items():
            damage(shutil.copytree(saved, root / label), root / "ran")
            hub.add(f"org/{label}", root / label)
        child = HubChild(processes, hub, root / "home", CHILD, site)
        found = {label: child.ask(label) for label in ATTACKS}
        child.close()
        asked = [request.path for request in hub.requests]
    return found, asked, (root / "ran").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_repository(loads, attack):
    """The same words, about the repository; what is too long for its kind is not even fetched."""
    words = ATTACKS[attack][1]
    message, grown = loads[0][attack]
    if words is None:
        assert message is None
    else:
        assert re.search(words, message, re.DOTALL), message
        assert f"org/{attack}" in message
        assert message.startswith(("LoadError", "PluginError", "UsageError"))
        assert len(message.splitlines()) <= 6
    assert grown * 1024 < MEMORY


def test_nothing_of_a_repository_is_run(loads):
    assert not loads[2]
    assert not [path for path in loads[1] if path.endswith((".py", ".bin"))]


def test_what_is_too_long_is_not_fetched(loads):
    fetched = [path for path in loads[1] if "/resolve/" in path]
    assert not [path for path in fetched if "/index_bomb/" in path and path.endswith("model_index.json")]
    assert not [path for path in fetched if "/config_bomb/" in path and path.endswith("generator/config.json")]


def test_a_bad_index_ends_before_the_weights_are_fetched(loads):
    for attack in ("class_number", "component_traversal", "index_deep"):
        assert not [path for path in loads[1] if f"/{attack}/" in path and path.endswith(".safetensors")]


# --- the command line -------------------------------------------------------------------------------------------


BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    "merges": "a: &a {x: 1}\n" + "".join(f"{n}: &{n} {{<<: [{', '.join([f'*{p}'] * 9)}]}}\n" for p, n in
                                        zip("abcdefgh", "bcdefghi", strict=True)),
    "deep": "a: " + "[" * 10_000,
    "itself": "a: &a [*a]",
    "long": "a: " + "x" * (1 << 18),
    "date": "a: 2001-99-99",
    "digits": "a: " + "9" * 5000,
    "tag": "a: !!python/object/apply:os.mkdir [ran]",
    "empty_number": "a: !!int ''",
    "number": "7",
    "null": "",
    "bytes": "a: \x00",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_recipe(tmp_path, bomb, hfgen, monkeypatch):
    """Of `hfgen train`; the other readers of YAML are the same."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(BOMBS[bomb])
    code, _, said = hfgen("train", "recipe.yaml")
    assert code == 2
    assert "recipe.yaml" in said
    assert len(said.splitlines()) <= 6, said
    assert not Path("ran").exists()


@pytest.mark.parametrize("bomb", ["aliases", "deep", "tag"])
@pytest.mark.parametrize("words", [["info"], ["card"], ["evaluate", "--dataset_name", "mnist-mini"]])
@pytest.mark.whole
def test_a_run_folder_of_a_stranger(folder, bomb, words, hfgen, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "config.yaml").write_text(BOMBS[bomb])
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    code, _, said = hfgen(words[0], folder, *words[1:])
    assert code == 2
    assert re.search(r"deep.config\.yaml", said), said
    assert len(said.splitlines()) <= 6, said
    assert not Path("ran").exists()


RESULTS = {
    "deep": ("[" * 100_000, "levels deep"),
    "long": (" " * (2 << 20), "bytes"),
    "list": ("[]", "is TARGET|no result"),
    "other": ('{"metric": "evaluation", "values": []}', "not a result that this version"),
}


@pytest.mark.parametrize("result", RESULTS)
def test_results_of_a_stranger(folder, result, hfgen):
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "r.json").write_text(RESULTS[result][0])
    code, _, said = hfgen("compare", folder)
    assert code == 2
    assert re.search(RESULTS[result][1], said) or "no result" in said, said


@pytest.mark.parametrize("words", [["info"], ["sample"]])
@pytest.mark.parametrize("attack", ["wide", "pickle", "index_deep", "component_os"])
def test_commands_say_it_in_a_few_lines(folder, attack, words, hfgen, monkeypatch):
    monkeypatch.chdir(folder.parent)
    ATTACKS[attack][0](folder, folder.parent / "ran")
    code, out, said = hfgen(words[0], folder)
    assert code == 1
    assert out == ""
    assert re.search(ATTACKS[attack][1], said, re.DOTALL), said
    assert len(said.splitlines()) <= 6, said
    assert [path.name for path in folder.parent.iterdir()] == ["deep"]


def test_metrics_of_a_stranger_are_told_as_far_as_they_are_some(folder, hfgen):
    """A terminal is not told to clear its screen."""
    lines = ['{"step": 1, "loss": 0.5}', '{"step": 2, "note": "\\u001b[2J"}', "[" * 100_000, "7"]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    main_out = hfgen("info", folder)
    assert main_out[0] == 0
    assert "step: 2" in main_out[1]
    assert "\x1b" not in main_out[1]


# --- what is no attack ------------------------------------------------------------------------------------------


CARD = (
    "---\nlicense: mit\n---\n# {{ 7 * 7 }} <script>alert(1)</script> \x1b[2J {% for x in range(10**9) %}{% endfor %}\n"
)


def test_a_card_is_not_rendered(folder, hfgen):
    """HTML and template syntax of a card are text, and nobody's business in loading."""
    (folder / "README.md").write_text(CARD)
    HFGenPipeline.from_pretrained(folder)
    code, out, _ = hfgen("info", folder)
    assert code == 0
    assert not re.search("49|script|\x1b", out)
    assert (folder / "README.md").read_text() == CARD


def test_lines_of_a_card_do_not_speak_to_the_terminal():
    from hfgen.evaluation.card_check import report

    said = []
    assert report(iter([("the card", [f"the card has: {CARD}"])]), said.append) == 1
    assert not any("\x1b" in line or "\n" in line for line in said)


def test_links_within_the_folder_are_followed(folder):
    (folder / WEIGHTS).rename(folder / "weights")
    (folder / WEIGHTS).symlink_to("../weights")
    HFGenPipeline.from_pretrained(folder)


def test_a_link_to_the_folder_is_followed(folder):
    (folder.parent / "link").symlink_to(folder)
    HFGenPipeline.from_pretrained(folder.parent / "link")


def test_a_class_that_needs_values_to_build_itself_is_loaded(tmp_path):
    """It cannot be built without memory; its numbers are bounded all the same."""
    source = DEEP.replace(
        "        self.more", "        self.rate = float(torch.linspace(0, 1, 3)[1])\n        self.more"
    )
    install_toy(tmp_path / "site", "valued", "valued_family", source.replace("Deep", "Toy"))
    with on_path(tmp_path / "site"):
        import valued_family

        valued_family.ValuedPipeline.build(4, 1).save_pretrained(tmp_path / "valued")
        assert HFGenPipeline.from_pretrained(tmp_path / "valued").generator.rate == 0.5
        edit(tmp_path / "valued" / CONFIG, width=10**9)
        refuse(tmp_path / "valued", "width is 1000000000")


def test_attention_blocks_of_old_repositories_are_loaded(tmp_path):
    """diffusers renamed their tensors in 2023, and loads them under either name."""
    from diffusers import DDPMScheduler, UNet2DModel
    from safetensors.torch import load_file, save_file

    from hfgen import registry

    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    blocks = {"down_block_types": ["AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D"], "block_out_channels": [4]}
    unet = UNet2DModel(8, 1, 1, layers_per_block=1, norm_num_groups=2, attention_head_dim=2, **blocks)
    family = registry.find_by_class("DDPMPipeline").load()
    family(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path)
    path, old = tmp_path / "unet" / "diffusion_pytorch_model.safetensors", {}
    for key, value in load_file(path).items():
        for new, former in names.items():
            key = key.replace(new, former)
        old[key] = value.clone()
    assert any(".query." in key for key in old)
    save_file(old, path, {"format": "pt"})
    loaded = HFGenPipeline.from_pretrained(tmp_path).unet
    assert all((tensor == loaded.state_dict()[key]).all() for key, tensor in unet.state_dict().items())


@pytest.mark.parametrize(
    ("name", "entries", "words"),
    [
        ("unet/config.json", {"block_out_channels": [2**20]}, "do not fit its config"),
        ("unet/config.json", {"layers_per_block": 10**5}, "asks for more than"),
        ("unet/config.json", {"sample_size": 10**6}, "sample_size is 1000000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "num_train_timesteps is"),
        ("model_index.json", {"scheduler": ["os", "system"]}, "comes from 'os'"),
        ("model_index.json", {"../unet": ["diffusers", "UNet2DModel"]}, "names a component"),
    ],
)
@pytest.mark.whole
def test_a_pipeline_that_no_family_has_is_looked_at_too(tmp_path, name, entries, words):
    """`hfgen evaluate` loads diffusers' own."""
    from diffusers import PNDMPipeline, PNDMScheduler, UNet2DModel

    from hfgen.errors import LoadError
    from hfgen.evaluation.any_pipeline import load_any

    blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [4]}
    unet = UNet2DModel(8, 1, 1, layers_per_block=1, norm_num_groups=2, attention_head_dim=2, **blocks)
    PNDMPipeline(unet, PNDMScheduler()).save_pretrained(tmp_path)
    assert type(load_any(str(tmp_path))).__name__ == "PNDMPipeline"
    edit(tmp_path / name, **entries)
    with pytest.raises(LoadError, match=words):
        load_any(str(tmp_path))


@pytest.fixture
def stable(tmp_path):
    """A pipeline of diffusers' that no family has, with a network and a tokenizer of transformers'."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    place = tmp_path / "words"
    place.mkdir()
    (place / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    text = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    unet = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [4]}
    unet |= {"attention_head_dim": 2, "norm_num_groups": 2, "layers_per_block": 1, "cross_attention_dim": 4}
    pipeline = StableDiffusionPipeline(
        AutoencoderKL(block_out_channels=[4], norm_num_groups=2, layers_per_block=1),
        CLIPTextModel(CLIPTextConfig(vocab_size=3, max_position_embeddings=4, **text)),
        CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt")),
        UNet2DConditionModel(8, **unet),
        PNDMScheduler(skip_prk_steps=True, steps_offset=1), None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(tmp_path / "stable")
    return tmp_path / "stable"


def moved_out(folder):
    (folder / "text_encoder").rename(folder.parent / "elsewhere")
    (folder / "text_encoder").symlink_to(folder.parent / "elsewhere")


def tokenizer_moved_out(folder):
    (folder / "tokenizer" / "tokenizer_config.json").rename(folder.parent / "elsewhere.json")
    (folder / "tokenizer" / "tokenizer_config.json").symlink_to(folder.parent / "elsewhere.json")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: edit(folder / "text_encoder" / "config.json", vocab_size=1 << 31), "vocab_size is 2147483648"),
        (lambda folder: edit(folder / "text_encoder" / "config.json", vocab_size=1 << 20), "do not fit its config"),
        (moved_out, "is a link out of the folder"),
        (tokenizer_moved_out, "is a link out of the folder"),
        (lambda folder: (folder / "tokenizer" / "tokenizer_config.json").write_text("[" * 200_000), "levels deep"),
    ],
)
@pytest.mark.whole
def test_parts_of_transformers_are_looked_at_too(stable, damage, words):
    from hfgen.errors import LoadError
    from hfgen.evaluation.any_pipeline import load_any

    assert type(load_any(str(stable))).__name__ == "StableDiffusionPipeline"
    damage(stable)
    with pytest.raises(LoadError, match=words):
        load_any(str(stable))


def test_what_a_message_quotes_does_not_speak_to_the_terminal(folder, hfgen):
    (folder / WEIGHTS).rename(folder / "generator" / "other.safetensors")
    table = {"weight_map": {"inner.weight": "\x1b[2Jx.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(table))
    code, _, said = hfgen("info", folder)
    assert code == 1
    assert "?[2Jx.safetensors is missing" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("key", ["warmup_steps", "cycle_steps"])
def test_long_schedules_are_no_sizes(folder, key):
    edit(folder / "scheduler" / "scheduler_config.json", **{key: 2_000_000})
    HFGenPipeline.from_pretrained(folder)
