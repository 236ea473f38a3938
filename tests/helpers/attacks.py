"""What a stranger may do to a saved `deep` model, and the words that the refusal must have; one function each.

Each takes the folder and the name of a file that must not come into being: code that runs makes it.
"""

import json
import os
import pickle
import struct

import torch
from plugin_site import TOY
from refusals import edit

CONFIG, WEIGHTS = "generator/config.json", "generator/diffusion_pytorch_model.safetensors"
SHARDS, PRIOR = f"{WEIGHTS}.index.json", "scheduler/scheduler_config.json"
MUCH = "hfgen accepts at most"

# The toy with as many layers, and as long a table, as its config says: what its weights do not bound by themselves.
DEEP = TOY.replace("width: int = 8)", "width: int = 8, depth: int = 1, table_size: int = 1)").replace(
    "        self.outer",
    "        self.more = nn.ModuleList([nn.Linear(1, 1) for _ in range(depth)])\n"
    "        self.register_buffer('table', torch.zeros(table_size), persistent=False)\n"
    "        self.outer",
)


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def index(**entries):
    return lambda folder, _: edit(folder / "model_index.json", **entries)


def config(name=CONFIG, **entries):
    return lambda folder, _: edit(folder / name, **entries)


def text(name, content):
    return lambda folder, _: (folder / name).write_text(content)


def module_of_the_repository(folder, ran):
    (folder / "modeling_deep.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n{DEEP}")
    (folder / "generator" / "modeling_deep.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n{DEEP}")
    edit(folder / "model_index.json", generator=["modeling_deep", "ToyGenerator"])


def pickled_weights(folder, ran):
    (folder / WEIGHTS).write_bytes(pickle.dumps({"inner.weight": Code(ran)}))


def zipped_pickle(folder, ran):
    with (folder / WEIGHTS).open("wb") as file:
        torch.save({"inner.weight": Code(ran)}, file)


def pickle_beside(folder, ran):
    (folder / WEIGHTS).unlink()
    torch.save({"inner.weight": Code(ran)}, folder / "generator" / "diffusion_pytorch_model.bin")


def header(content, data=b"", length=None):
    """Weights with this header, which says that it is so long."""

    def damage(folder, _):
        written = content if isinstance(content, bytes) else json.dumps(content).encode()
        said = len(written) if length is None else length
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", said) + written + data)

    return damage


def tensor(shape, start, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def many_tensors(folder, _):
    """A header that names many empty tensors: a budget by their number must not be theirs to set."""
    tensors = {f"more.{i}.weight": tensor([0, 1], 0, 0) for i in range(10_000)}
    header(tensors)(folder, None)
    edit(folder / CONFIG, depth=10**6)


def shard(name):
    return text(SHARDS, json.dumps({"metadata": {"total_size": 1}, "weight_map": {"inner.weight": name}}))


# label: (damage, words of the message)
ATTACKS = {
    # the index
    "class_list": (index(_class_name=["os", "system"], _hfgen={}), "No installed family .*'system'"),
    "class_number": (index(_class_name=7), "names no pipeline class"),
    "class_dotted": (index(_class_name="os.system", _hfgen={}), "No installed family .*'os.system'"),
    "class_dotted_family": (index(_class_name="deep_family.DeepPipeline", _hfgen={}), "No installed family"),
    "provenance_dotted": (index(_hfgen={"pipeline": "os.system"}), "No installed family"),
    "provenance_list": (index(_hfgen={"pipeline": ["os", "system"]}), "No installed family"),
    "component_os": (index(generator=["os", "system"]), "'os', which no enabled family provides"),
    "component_builtins": (index(generator=["builtins", "exec"]), "'builtins', which no enabled"),
    "component_stdlib": (index(generator=["subprocess", "Popen"]), "'subprocess', which no enabled"),
    "component_hub": (index(generator=["hfgen.hub", "shutil"]), "'hfgen.hub', which no enabled"),
    "component_file": (module_of_the_repository, "'modeling_deep', which no enabled|custom code"),
    "component_traversal": (index(**{"../outside": ["deep_family", "DeepGenerator"]}), "names a component"),
    "component_absolute": (index(**{"/etc": ["deep_family", "DeepGenerator"]}), "names a component"),
    "component_nested": (index(**{"a/b": ["deep_family", "DeepGenerator"]}), "names a component"),
    "index_bomb": (text("model_index.json", '{"a": "' + "x" * (2 << 20) + '"}'), "1,048,576"),
    "index_deep": (text("model_index.json", '{"a": ' + "[" * 100_000), "model_index.json is damaged: .*levels deep"),
    "index_deep_objects": (text("model_index.json", '{"a": ' * 100_000), "model_index.json is damaged: .*levels deep"),
    # configs
    "config_bomb": (text(CONFIG, " " * (2 << 20) + "{}"), "1,048,576"),
    "config_deep": (text(CONFIG, '{"width": ' + "[" * 900 + "]" * 900 + "}"), "levels deep"),
    "config_digits": (text(CONFIG, '{"width": ' + "9" * 5000 + "}"), "generator/config.json is damaged"),
    "wide": (config(width=10**9), f"width is 1000000000; {MUCH}"),
    "negative": (config(width=-(10**9)), MUCH),
    "large_image": (config(sample_size=10**6), f"sample_size is 1000000, in pixels; {MUCH}"),
    "large_image_list": (config(sample_size=[10**4, 10**4]), f"sample_size .*{MUCH}"),
    "wider_than_the_weights": (config(width=2**20), "'generator' do not fit its config: 'inner.weight' is .8, 3."),
    "overflow": (config(width=2**20, latent_dim=2**20, sample_size=4096), "do not fit its config"),
    "deeper_than_the_weights": (config(depth=10**6), "asks for more than 2,220 parts"),
    "layers_as_a_list": (config(depth=list(range(10**4))), "cannot be loaded"),
    "long_table": (config(table_size=2**20), None),
    "longer_table": (config(table_size=[2**10] * 3), f"tables have 1,073,741,8.*{MUCH}"),
    "many_timesteps": (config(PRIOR, num_train_timesteps=10**12), None),  # this class takes none
    "large_latent": (config(PRIOR, latent_shape=[2**20, 2**20]), f"latent_shape .*in elements; {MUCH}"),
    # weights
    "pickle": (pickled_weights, "is a pickle named as safetensors"),
    "zipped_pickle": (zipped_pickle, "is a pickle named as safetensors"),
    "pickle_beside": (pickle_beside, "'generator' has no weights"),
    "pointer": (text(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "git lfs pull"),
    "header_long": (header(b"{}", length=2**63), "is truncated or damaged: its header has"),
    "header_beyond": (header(b"{}", length=1000), "is truncated or damaged"),
    "header_no_json": (header(b"[" * 1000), "is truncated or damaged"),
    "header_deep": (header(b'{"a":' * 10_000), "is truncated or damaged"),
    "overlapping": (header({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)), "is truncated or damaged"),
    "hole": (header({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)), "is truncated or damaged"),
    "beyond_the_file": (header({"a": tensor([2**40], 0, 2**42)}), "is truncated or damaged"),
    "larger_than_its_bytes": (header({"a": tensor([2**40], 0, 4)}, bytes(4)), "is truncated or damaged"),
    "overflowing": (header({"a": tensor([2**40, 2**40], 0, 4)}, bytes(4)), "is truncated or damaged"),
    "shard_above": (shard("../../outside.safetensors"), "files that are not safetensors beside it"),
    "shard_absolute": (shard("/etc/outside.safetensors"), "files that are not safetensors beside it"),
    "shard_pickle": (shard("evil.bin"), "files that are not safetensors beside it"),
    "shard_number": (shard(7), "is damaged"),
}


# --- what only a disk holds -------------------------------------------------------------------------------------


def link_folder(folder, _):
    os.rename(folder / "generator", folder.parent / "elsewhere")
    (folder / "generator").symlink_to(folder.parent / "elsewhere")


def link_file(name):
    def damage(folder, _):
        os.rename(folder / name, folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return damage


def link_circle(folder, _):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / WEIGHTS)


def pipe(name):
    def damage(folder, _):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def sparse(folder, _):
    """A terabyte that costs no disk, with a header that is right."""
    (folder / WEIGHTS).unlink()
    header({"inner.weight": tensor([2**35, 3], 0, 3 * 2**37)})(folder, None)
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + 3 * 2**37)


LOCAL_ATTACKS = {
    "link_folder": (link_folder, "generator is a link out of the folder"),
    "link_index": (link_file("model_index.json"), "model_index.json is a link out of the folder"),
    "link_config": (link_file(CONFIG), "config.json is a link out of the folder"),
    "link_weights": (link_file(WEIGHTS), "is a link out of the folder"),
    "link_scheduler": (link_file(PRIOR), "is a link out of the folder"),
    "link_circle": (link_circle, "is a link out of the folder"),
    "pipe_index": (pipe("model_index.json"), "not a regular file"),
    "pipe_config": (pipe(CONFIG), "not a regular file"),
    "pipe_weights": (pipe(WEIGHTS), "not a regular file"),
    "sparse": (sparse, "incomplete|do not fit"),
}
