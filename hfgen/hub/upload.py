"""Uploading files as one commit, by huggingface_hub: tried again if that gives up, and never committed twice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from hfgen.cards.card import CARD
from hfgen.errors import HFGenError, UsageError
from hfgen.files import digest, size_of
from hfgen.hub.client import WAITS, is_transient, patiently, pause, status_of
from hfgen.hub.edited_card import refuse_edited_card

Files = Mapping[str, Path | bytes]  # name in the repository -> where it lies, or what it holds
Changes = Callable[[set[str]], tuple[Files, Sequence[str]]]  # names in the repository -> files to add, names to remove
Made = tuple[str | None, str | None]  # id of the commit, address of the pull request
CONFLICT = 412  # the branch is no longer at `parent_commit`
TIMEOUT = 60.0  # seconds, for requests about the repository


@dataclass(frozen=True)
class Place:
    """The repository and branch to upload to, and the commit's message."""

    repo_id: str
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    commit_message: str = "Upload with hfgen"
    overwrite_card: bool = False

    @property
    def branch(self) -> str:
        return self.revision or "main"


@dataclass(frozen=True)
class Pushed:
    """Result of an upload; the first names are those of huggingface_hub's `CommitInfo`."""

    repo_id: str
    oid: str | None
    commit_url: str
    pr_url: str | None = None
    unchanged: bool = False
    files: Sequence[str] = field(default=(), repr=False)
    removed: Sequence[str] = ()


def upload(api: HfApi, place: Place, changes: Changes) -> Pushed:
    """Create the repository and the branch if they do not exist, and commit.

    Raises:
        UsageError: `private` was asked for, and the repository is public; or somebody edited the card there.
        HFGenError: somebody else changed the branch meanwhile.
        Exception: the error of huggingface_hub; a transient one only after five tries.
    """
    url = patiently(lambda: api.create_repo(place.repo_id, private=place.private or None, exist_ok=True))
    repo_id = url.repo_id
    is_private = None if place.private is None else patiently(lambda: api.repo_info(repo_id, timeout=TIMEOUT)).private
    if place.private and is_private is False:
        raise UsageError(f"{repo_id} exists and is public; nothing was sent. Leave out --private, or choose another.")
    if place.private is False and is_private:
        raise UsageError(
            f"{repo_id} exists and is private; nothing was sent. Leave out private=False, or change its visibility on "
            "the Hub."
        )
    if place.branch != "main" and not place.branch.startswith("refs/pr/"):
        patiently(lambda: api.create_branch(repo_id, branch=place.branch, exist_ok=True))
    head: Any = patiently(lambda: api.repo_info(repo_id, revision=place.branch, timeout=TIMEOUT))
    there = {sibling.rfilename for sibling in head.siblings or ()}
    files, removed = changes(there)
    if CARD in files and CARD in there and not (place.create_pr or place.overwrite_card):
        refuse_edited_card(api, repo_id, head.sha, files[CARD])
    oid, pr_url = _commit(api, place, repo_id, head.sha, files, removed)
    tree = "" if place.branch == "main" else f"/tree/{place.branch}"
    return Pushed(repo_id, oid, pr_url or f"{url}{tree}", pr_url, oid == head.sha, sorted(files), removed)


def _commit(api: HfApi, place: Place, repo_id: str, parent: str | None, files: Files, removed: Sequence[str]) -> Made:
    """Commit on top of `parent`: (id of the commit, address of the pull request).

    If the Hub's answer was lost, the commit may have been made all the same. So the repository is searched for it
    before another try; and as every try names the same parent, the Hub refuses a second commit.
    """
    find: Callable[[], Made | None] = (
        (lambda: _own_pull_request(api, place, repo_id, files, removed))
        if place.create_pr
        else (lambda: _own_commit(api, place, repo_id, parent, files, removed))
    )
    found = patiently(find) if place.create_pr else None  # opened by an earlier call whose answer was lost
    if found:
        return found
    operations: list[Any] = [CommitOperationDelete(name) for name in removed]
    operations += [CommitOperationAdd(name, content) for name, content in files.items()]
    options: dict[str, Any] = {"revision": place.revision, "create_pr": place.create_pr, "parent_commit": parent}
    for wait in (*WAITS, None):
        try:
            made: CommitInfo = api.create_commit(
                repo_id, operations, commit_message=place.commit_message, run_as_future=False, **options
            )
            return made.oid, made.pr_url
        except Exception as error:
            conflict = status_of(error) == CONFLICT
            if not (conflict or is_transient(error)):
                raise
            if not conflict:
                pause(wait or 0, error)
            found = patiently(find)
            if found:
                return found
            if conflict:
                raise HFGenError(f"somebody changed {place.branch} meanwhile; it was not overwritten.") from error
            if wait is None:
                raise
    raise AssertionError("the last try returns or raises")


# --- looking before trying again --------------------------------------------------------------------------------
def _own_commit(
    api: HfApi, place: Place, repo_id: str, parent: str | None, files: Files, removed: Sequence[str]
) -> Made | None:
    """Find the commit that follows `parent`, if its content is the intended one."""
    ids = [commit.commit_id for commit in api.list_repo_commits(repo_id, revision=place.branch)]
    position = ids.index(parent) if parent in ids else len(ids)
    if position == 0 or not _holds(api, repo_id, ids[position - 1], files, removed):
        return None
    return ids[position - 1], None


def _own_pull_request(api: HfApi, place: Place, repo_id: str, files: Files, removed: Sequence[str]) -> Made | None:
    """Find the open pull request with this title and the intended content."""
    title = place.commit_message.splitlines()[0]
    for found in api.get_repo_discussions(repo_id, discussion_type="pull_request", discussion_status="open"):
        if found.title == title and _holds(api, repo_id, f"refs/pr/{found.num}", files, removed):
            return None, f"{api.endpoint}/{repo_id}/discussions/{found.num}"
    return None


def _holds(api: HfApi, repo_id: str, revision: str, files: Files, removed: Sequence[str]) -> bool:
    """Return True if a revision has these files, by their hashes, and none of the removed ones."""
    listed = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    there: dict[str, Any] = {entry.path: entry for entry in listed}
    if any(name in there for name in removed) or not all(name in there for name in files):
        return False
    return all(_is_same(content, there[name]) for name, content in files.items())


def _is_same(content: Path | bytes, entry: Any) -> bool:
    if size_of(content) != entry.size:
        return False
    if entry.lfs is not None:
        return digest("sha256", content) == entry.lfs.sha256
    return digest("sha1", content, b"blob %d\0" % size_of(content)) == entry.blob_id  # git's id of a file
