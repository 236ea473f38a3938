"""A repository of the stand-in for the Hub: revisions, each a local folder."""

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Repository:
    """Revision name -> folder. A private one has a token; of a gated one, everybody may see what files there are, and
    the token is for these; a dropped one closes the connection without an answer.

    Of a branch that was committed to, `history` has the commits, the newest first; `pulls` has the titles of pull
    requests, `lfs` the names of files that came as LFS, and are fetched from storage.
    """

    revisions: dict[str, Path] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    dropped: bool = False
    history: dict[str, list[str]] = field(default_factory=dict)
    pulls: list[str] = field(default_factory=list)
    lfs: set[str] = field(default_factory=set)

    def commit(self, branch: str, base: str, folder: Path, files: dict[str, bytes], removed: list[str]) -> str:
        """Write the files of `base` with these changes into a new folder, the head of `branch`."""
        if base in self.revisions:
            shutil.copytree(self.revisions[base], folder)
        for name in removed:
            (folder / name).unlink()
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        self.revisions[branch] = folder
        found = self.find(branch)
        assert found is not None
        self.revisions[found[0]] = folder
        self.history[branch] = [found[0], *self.history.get(base, ())]
        return found[0]

    def find(self, revision: str) -> tuple[str, dict[str, Path]] | None:
        """(commit id, files) of a branch, a tag or a commit id."""
        for name, folder in self.revisions.items():
            files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
            commit = hashlib.sha1("".join(n + blob_id(p) for n, p in files.items()).encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


def blob_id(path: Path) -> str:
    """git's id of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
