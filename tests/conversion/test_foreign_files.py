"""Files of another program: which are read, and where from."""

import json
from pathlib import Path

import pytest
import torch
from foreign_models import HERE, refused

from hfgen.conversion.foreign_files import ForeignFiles, plain_state_dict
from hfgen.errors import LoadError


def test_what_is_local_has_no_revision_and_no_repository(tmp_path):
    source = HERE / "torchgan" / "generator.pt"
    refused("has revisions", source, tmp_path / "a", "--allow_pickle", "--revision", "main")
    for name in ("netG_typo.pth", "out/netG_typo.pth", "netG.safetensors"):
        refused("so the Hub was not asked", name, tmp_path / "a", "--allow_pickle", code=1)


def test_json_is_bounded_and_of_the_folder(tmp_path):
    """Links lead nowhere but from a Hub's snapshot to its blobs."""
    folder = tmp_path / "models--org--old" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (tmp_path / "outside.json").write_text('{"secret": 1}')
    (folder / "out.json").symlink_to(tmp_path / "outside.json")
    (folder / "long.json").write_text(json.dumps({"a": "b" * (1 << 20)}))
    (folder / "deep.json").write_text('{"a": ' + "[" * 60 + "]" * 60 + "}")
    (folder.parents[1] / "blobs").mkdir()
    (folder.parents[1] / "blobs" / "1").write_text('{"a": 1}')
    (folder / "blob.json").symlink_to(Path("../../blobs/1"))
    source = ForeignFiles(folder, "it")
    assert source.json("blob.json") == {"a": 1}
    for name, words in {"out": "link out of the folder", "long": "longer than", "deep": "levels deep"}.items():
        with pytest.raises(LoadError, match=words):
            source.json(f"{name}.json")
    (folder / "out.safetensors").symlink_to(tmp_path / "outside.json")
    with pytest.raises(LoadError, match="link out of the folder"):
        source.content("out.safetensors")


def test_wrapped_names():
    tensors = {"module.a": torch.zeros(1), "module.b": torch.zeros(1)}
    assert set(plain_state_dict(tensors, "")) == {"a", "b"}
    assert set(plain_state_dict({**tensors, "c": torch.zeros(1)}, "")) == {"module.a", "module.b", "c"}
