"""What a stranger may do to a saved `latent` model, inside whose folder are those of two pipelines.

As in `attacks`: each function takes the folder and the name of a file that code makes if it is run, and has the words
of the refusal.
"""

import json
import os
import shutil

from attacks import MUCH, config, header, index, pickled_weights, text
from refusals import edit

INDEX, CONFIG = "prior/model_index.json", "prior/generator/config.json"
WEIGHTS = "prior/generator/diffusion_pytorch_model.safetensors"
MODULE = "toy_composed"


def inner(damage):
    """The damage, to the pipeline inside."""

    def of_the_prior(folder, ran):
        damage(folder / "prior", ran)

    return of_the_prior


def custom_code(folder, ran):
    """As bundled code is named: the installed class is taken, and the file is not run."""
    for name in ("pipeline_evil.py", "generator/modeling_evil.py"):
        (folder / "prior" / name).write_text(f"import os\nos.mkdir({str(ran)!r})\n")
    modules = {"modules": {"generator": MODULE}}
    edit(folder / INDEX, _class_name=["pipeline_evil", "OneStepPipeline"], generator=["modeling_evil", "ToyDecoder"])
    edit(folder / INDEX, _hfgen={**json.loads((folder / INDEX).read_text())["_hfgen"], **modules})


def module_beside(folder, ran):
    (folder / "prior" / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n")
    edit(folder / INDEX, generator=["modeling_evil", "ToyDecoder"])


def deeper(folder, _):
    """Four levels of pipelines, each whole."""
    saved = shutil.copytree(folder, folder.parent / f"{folder.name}-inside")
    edit(saved / "model_index.json", decoder=[MODULE, "LatentToyPipeline"])
    place = folder
    for _level in range(3):
        edit(place / "model_index.json", decoder=[MODULE, "LatentToyPipeline"])
        shutil.rmtree(place / "decoder")
        place = shutil.copytree(saved, place / "decoder")
    shutil.rmtree(saved)


def without_index(folder, _):
    (folder / INDEX).unlink()


INNER_ATTACKS = {
    # the index above
    "above_os": (index(prior=["os", "system"]), "No installed family .*'system'"),
    "above_hub": (index(prior=["hfgen.hub", "shutil"]), "No installed family .*'shutil'"),
    "above_any": (index(prior=["hfgen.pipeline", "HFGenPipeline"]), "No installed family .*'HFGenPipeline'"),
    "above_diffusers": (index(prior=["diffusers", "StableDiffusionPipeline"]), "No installed family .*'StableDiff"),
    "above_network": (index(prior=[MODULE, "ToyDecoder"]), "No installed family .*'ToyDecoder'"),
    "above_elsewhere": (index(prior=["os", "OneStepPipeline"]), "'OneStepPipeline' of 'os', which does not exist"),
    "above_other": (index(prior=[MODULE, "CodecPipeline"]), "prior: It is a OneStepPipeline; the index above says"),
    "above_twice": (index(prior=[MODULE, "LatentToyPipeline"]), "prior: It is a OneStepPipeline; the index above"),
    # the index inside
    "inside_os": (inner(index(_class_name=["os", "system"], _hfgen={})), "prior: It is a system; the index above"),
    "inside_other": (inner(index(_hfgen={"pipeline": "CodecPipeline"})), "prior: It is a CodecPipeline"),
    "inside_number": (inner(index(_class_name=7)), "prior: .*names no pipeline class"),
    "inside_component": (inner(index(generator=["os", "system"])), "prior: .*'os', which no enabled family"),
    "inside_pipeline": (inner(index(generator=[MODULE, "OneStepPipeline"])), "'OneStepPipeline' .*does not exist"),
    "inside_traversal": (inner(index(**{"../decoder": [MODULE, "ToyDecoder"]})), "names a component '../decoder'"),
    "inside_file": (module_beside, "'modeling_evil', which no enabled"),
    "inside_code": (custom_code, None),
    "inside_bomb": (text(INDEX, '{"a": "' + "x" * (2 << 20) + '"}'), "1,048,576"),
    "inside_deep": (text(INDEX, '{"a": ' + "[" * 100_000), "model_index.json is damaged: .*levels deep"),
    "inside_missing": (without_index, "no model_index.json|generator/config.json|is missing"),
    "too_deep": (deeper, "'decoder' is inside too many others: hfgen loads 3 levels"),
    # what it holds
    "wide": (config(CONFIG, width=10**9), f"prior: .*width is 1000000000; {MUCH}"),
    "wider_than_the_weights": (config(CONFIG, width=2**20), "'generator' do not fit its config"),
    "pickle": (inner(pickled_weights), "prior: .*is a pickle named as safetensors"),
    "header_beyond": (inner(header(b"{}", length=1000)), "prior: .*is truncated or damaged"),
}


# --- what only a disk holds -------------------------------------------------------------------------------------


def link_out(name):
    def damage(folder, _):
        os.rename(folder / name, folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return damage


def code_by_no_name(folder, ran):
    """As diffusers looks for it where no custom pipeline was asked for."""
    (folder / "prior" / "None.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n")


def circle(folder, _):
    """The folder inside itself."""
    shutil.rmtree(folder / "decoder")
    (folder / "decoder").symlink_to(folder)
    edit(folder / "model_index.json", decoder=[MODULE, "LatentToyPipeline"])


LOCAL_INNER_ATTACKS = {
    "link_pipeline": (link_out("prior"), "prior is a link out of the folder"),
    "link_index": (link_out(INDEX), "model_index.json is a link out of the folder"),
    "link_weights": (link_out(WEIGHTS), "is a link out of the folder"),
    "none": (code_by_no_name, "prior cannot be loaded: .*contains custom code in None.py"),
    "circle": (circle, "is inside too many others"),
}
