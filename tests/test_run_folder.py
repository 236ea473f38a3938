"""The folder of a run: how it is chosen and taken."""

import pytest

from hfgen.errors import UsageError
from hfgen.run_folder import choose, take


def test_run_folders_are_numbered_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        folder = choose("m", "org/some data", None, resume=None)
        folder.mkdir(parents=True)
        (folder / "env.json").touch()
        names.append(str(folder))
    assert names == ["runs/m-some-data", "runs/m-some-data-2", "runs/m-some-data-3"]
    assert str(choose("m", "org/some data", None, resume="latest")) == "runs/m-some-data-3"
    assert str(choose("m", "d", None, resume="runs/m-some-data-2/checkpoints/checkpoint-5")) == "runs/m-some-data-2"
    with pytest.raises(UsageError, match="is not empty; nothing was written"):
        choose("m", "d", names[0], resume=None)
    assert str(choose("m", "d", names[0], resume="latest")) == names[0]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="no run of hfgen; nothing was written"):
        choose("m", "d", "letters", resume="latest")
    with pytest.raises(UsageError, match="taken by another run"):
        take(tmp_path / names[0], resumed=False)
