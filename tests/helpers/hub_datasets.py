"""Datasets on the stand-in for the Hub: repositories that are added as `datasets:OWNER/NAME`."""

import json
import urllib.parse
from pathlib import Path

from hub_repository import Repository
from hub_server import Handler, HubServer


class DatasetServer(HubServer):
    """A stand-in whose datasets are listed by folder and by path, as a file system of the Hub asks for them."""

    def __init__(self) -> None:
        super().__init__(DatasetHandler)

    def add_dataset(self, repo_id: str, folder: Path, **options: object) -> None:
        self.add(f"datasets:{repo_id}", folder, **options)


class DatasetHandler(Handler):
    def read(self, parts: list[str]) -> None:
        super().read(_as_model(parts))

    def write(self, parts: list[str]) -> None:
        owner, name, what, *revision = _as_model(parts)[2:]
        if parts[:2] != ["api", "datasets"] or what != "paths-info":
            return super().write(parts)
        repo_id = f"{owner}/{name}"
        repository = self.server.repositories.get(repo_id, Repository())
        found = repository.find(revision[0])
        if found is None or (repository.token not in (None, self.token) and not repository.gated):
            return self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
        asked = json.loads(self.body)["paths"] if self.body[:1] == b"{" else urllib.parse.parse_qs(self.body.decode())
        asked = asked if isinstance(asked, list) else asked["paths"]
        return self.answer_json([e for e in self.entries(repo_id, found[1], "", True) if e["path"] in asked])

    def answer_about(self, repo_id: str, found: tuple[str, dict[str, Path]] | None, what: str, is_api: bool) -> None:
        is_tree = what == "tree" or what.startswith("tree/")
        if not (is_api and is_tree and found and repo_id.startswith("datasets:")):
            return super().answer_about(repo_id, found, what, is_api)
        folder = what.removeprefix("tree").strip("/")
        entries = self.entries(repo_id, found[1], folder and f"{folder}/", "recursive=true" in self.path.lower())
        if not entries and folder:
            return self.refuse(404, "EntryNotFound", "Entry not found", found[0])
        return self.answer_json(entries)

    def entries(self, repo_id: str, files: dict[str, Path], below: str, recursive: bool) -> list[dict[str, object]]:
        """Files and folders below a folder, or in it."""
        inside = {name: path for name, path in files.items() if name.startswith(below)}
        folders = {
            parent for name in inside for parent in map(str, Path(name).parents) if f"{parent}/".startswith(below)
        }
        folders = {folder for folder in folders if folder != "." and len(folder) > len(below)}
        found: list[dict[str, object]] = [self.entry(repo_id, name, path) for name, path in inside.items()]
        found += [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]
        return [e for e in found if recursive or "/" not in str(e["path"])[len(below) :]]


def _as_model(parts: list[str]) -> list[str]:
    """The address of a dataset as that of a model whose owner is called `datasets:OWNER`."""
    if parts[:2] == ["api", "datasets"]:
        return ["api", "models", f"datasets:{parts[2]}", *parts[3:]]
    return [f"datasets:{parts[1]}", *parts[2:]] if parts[:1] == ["datasets"] and len(parts) > 2 else parts
