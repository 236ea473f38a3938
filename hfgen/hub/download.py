"""What is fetched from a Hub: only the files that are needed, all of one commit, each with the content it was told.

What huggingface_hub gives up and another try may mend is tried again; a Hub that cannot be reached is replaced by the
cache, where that holds all that is needed.
"""

import contextlib
import fnmatch
import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from hfgen import __version__
from hfgen.errors import LoadError, first_line
from hfgen.files import MOST_BYTES, MOST_TABLE, digest
from hfgen.hub.client import bars_on_a_terminal_only, is_transient, patiently
from hfgen.repository.checks import check_variant
from hfgen.repository.index import MODEL_INDEX, component_entries, read_index

Names = Collection[str]
Entries = Mapping[str, Any]  # name -> what the Hub tells of a file: size, blob_id, lfs
Select = Callable[[str, Names], list[str]]  # folder with what is there so far, names in the repository -> names needed

TIMEOUT = 10.0  # seconds, of the first question; huggingface_hub's of files is the same
MAIN, CARD = "main", "README.md"
CONFIGS = (MODEL_INDEX, "config.json", "scheduler_config.json")
COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|pytorch_model|model)[.\w-]*\.safetensors")
DOWNLOAD_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
TEXTS = (".json", ".md", ".txt", ".yaml")
TRIES = 2  # of a file that arrives with another content


def local_folder(target: str, patterns: Sequence[str] = (), /, **kwargs: Any) -> str:
    """The folder of a pipeline: `target` itself, or where its repository's files are, fetched as by `download`."""
    if os.path.isdir(target):
        return target
    if os.path.exists(target) or target.startswith((".", "/", "~")) or target.count("/") > 1:
        raise LoadError(f"{target!r} is no folder; a pipeline is a folder with a {MODEL_INDEX}, or a repository id.")
    return download(target, patterns, **kwargs)


def download(repo_id: str, patterns: Sequence[str] = (), /, **kwargs: Any) -> str:
    """Fetch what is needed of a repository's pipeline; return the folder, whose files are of one commit.

    Needed are the index and of each component that is not among the arguments its configs and its weights, of the
    variant where it has that: no code, no pickles, no other variants, no checkpoints.

    Args:
        patterns: of other files, which are wanted instead.
        kwargs: those of `from_pretrained`; of a `subfolder` nothing but that is fetched.

    Raises:
        LoadError: no such repository, revision or right to read it; no connection and not all of it cached; or what
            arrives is not what the Hub announced.
    """
    where = {name: kwargs[name] for name in DOWNLOAD_OPTIONS if kwargs.get(name) is not None}
    select = (lambda _, names: matching(names, patterns)) if patterns else needed_by(kwargs)
    with _clear_errors(repo_id, dict(where)), bars_on_a_terminal_only():
        if where.pop("local_files_only", False) or constants.is_offline_mode():
            return _from_cache(repo_id, select, where)
        if COMMIT.fullmatch(where.get("revision", "")) and not where.get("force_download"):
            with contextlib.suppress(LocalEntryNotFoundError):  # a commit that is here needs no question
                return _from_cache(repo_id, select, where)
        try:
            commit, entries = _ask(repo_id, where)
        except Exception as error:
            if not is_transient(error):
                raise
            with contextlib.suppress(LocalEntryNotFoundError):
                return _from_cache(repo_id, select, where)
            if isinstance(error, httpx2.ConnectError):  # there is no Hub; others may only be busy
                raise
            commit, entries = patiently(lambda: _ask(repo_id, where))
        folder = _fetch(repo_id, commit, entries, select, where)
        _note(repo_id, commit, where)
        return folder


# --- which files ------------------------------------------------------------------------------------------------
def matching(names: Names, patterns: Sequence[str]) -> list[str]:
    """The names of these patterns, whose `*` is no `/`; without weights of a variant."""
    plain = [n for n in names if not (n.endswith(".safetensors") and n.rpartition("/")[2].count(".") > 1)]
    return [n for n in plain if any(n.count("/") == p.count("/") and fnmatch.fnmatchcase(n, p) for p in patterns)]


def needed_by(kwargs: Mapping[str, Any]) -> Select:
    """The files that loading with these arguments reads: of what the index names, once that is here."""

    def select(folder: str, names: Names) -> list[str]:
        if kwargs.get("subfolder"):
            return component_files(names, f"{kwargs['subfolder']}/", kwargs.get("variant"))
        first = [name for name in (MODEL_INDEX, CARD) if name in names]
        if MODEL_INDEX not in names:  # a single model
            return [*first, *component_files(names, "", kwargs.get("variant"))]
        if not (Path(folder) / MODEL_INDEX).exists():
            return first
        chosen = dict.fromkeys(first)
        check_variant(kwargs.get("variant"), [name for name in names if name.count("/") < 2])
        for component, _, _ in component_entries(read_index(folder)):
            if component not in kwargs:
                inside = any(name.startswith(f"{component}/") for name in names)
                prefix = f"{component}/" if inside else ""  # diffusers' first repositories have them beside the index
                chosen |= dict.fromkeys(component_files(names, prefix, kwargs.get("variant")))
        return list(chosen)

    return select


def component_files(names: Names, prefix: str, variant: str | None) -> list[str]:
    """Configs, texts and weights of one component: those of the variant, where it has that.

    >>> names = ["a/config.json", "a/model.safetensors", "a/model.fp16.safetensors", "a/model.bin", "a/x/config.json"]
    >>> component_files(names, "a/", "fp16")
    ['a/config.json', 'a/model.fp16.safetensors']
    >>> component_files(names, "a/", None)
    ['a/config.json', 'a/model.safetensors']
    """
    own = [n for n in names if n.startswith(prefix) and "/" not in n[len(prefix) :]]
    weights = [name for name in own if WEIGHTS.fullmatch(name[len(prefix) :])]
    plain = [name for name in weights if name.count(".", len(prefix)) == 1]
    varied = [n for n in weights if variant and re.search(rf"\.{re.escape(variant)}[.-]", n[len(prefix) :])]
    texts = (".json",) if not prefix else (".json", ".txt")
    return [name for name in own if name.endswith(texts)] + (varied or plain)


# --- from the Hub -----------------------------------------------------------------------------------------------
def _ask(repo_id: str, where: Mapping[str, Any]) -> tuple[str, Entries]:
    """The commit that the revision is now, and its files."""
    api = HfApi(library_name="hfgen", library_version=__version__, token=where.get("token"))
    revision = where.get("revision", MAIN)
    info: Any = api.repo_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
    if not COMMIT.fullmatch(info.sha or ""):
        raise LoadError(f"the Hub does not tell which commit {revision!r} is.")
    return info.sha, {sibling.rfilename: sibling for sibling in info.siblings or ()}


def _note(repo_id: str, commit: str, where: Mapping[str, Any]) -> None:
    """Note in the cache which commit a branch is, as huggingface_hub does, once what is needed of it is here."""
    revision = where.get("revision", MAIN)
    if revision != commit:
        with contextlib.suppress(OSError):  # of a cache that cannot be written to
            note = _storage(repo_id, where) / "refs" / revision
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(commit, encoding="utf-8")


def _fetch(repo_id: str, commit: str, entries: Entries, select: Select, where: Mapping[str, Any]) -> str:
    """The index first; then, once it has passed its check, what it needs."""
    folder, done = _storage(repo_id, where) / "snapshots" / commit, set[str]()
    if where.get("force_download") and MODEL_INDEX in entries:  # the one that is here may be damaged
        _get(repo_id, commit, {MODEL_INDEX: entries[MODEL_INDEX]}, where)
        done = {MODEL_INDEX}
    while True:
        names = set(select(str(folder), entries)) - done
        new = {n: entries[n] for n in names if where.get("force_download") or not (folder / n).exists()}
        if not new:
            return str(folder)
        _get(repo_id, commit, new, where)
        done |= set(new)


def _get(repo_id: str, commit: str, entries: Entries, where: Mapping[str, Any]) -> None:
    """These files of a commit, each with the content that the Hub announced."""
    _check_sizes(entries)
    options = {**where, "revision": commit, "allow_patterns": [glob.escape(name) for name in entries]}
    wrong: list[str] = []
    for _ in range(TRIES):
        folder = Path(
            patiently(lambda: snapshot_download(repo_id, library_name="hfgen", library_version=__version__, **options))
        )
        wrong = [name for name, entry in entries.items() if not _is_as_announced(folder / name, entry)]
        if not wrong:
            return
        for name in wrong:  # so that nothing else ever reads them
            (folder / name).resolve().unlink(missing_ok=True)  # two names of one content share it
            (folder / name).unlink(missing_ok=True)
    raise LoadError(
        f"{wrong[0]} arrived damaged, {TRIES} times: its content is not what the Hub announced. It was not kept.\n"
        "The connection, or a proxy on the way, changes files; try again later with force_download=True."
    )


def _check_sizes(entries: Entries) -> None:
    for name, entry in entries.items():
        most = MOST_BYTES if name.rpartition("/")[2] in CONFIGS else MOST_TABLE
        if name.endswith(TEXTS) and (entry.size or 0) > most:
            raise LoadError(
                f"{name} has {entry.size:,} bytes, hfgen reads at most {most:,} of such a file; it was not fetched.\n"
                "That is no model's; tell those who published it."
            )


def _is_as_announced(path: Path, entry: Any) -> bool:
    """By the hash that the Hub lists: sha256 of a large file, git's own of a small one."""
    if entry.lfs is not None:
        return digest("sha256", path) == entry.lfs.sha256
    return entry.blob_id is None or digest("sha1", path, b"blob %d\0" % path.stat().st_size) == entry.blob_id


# --- from the cache ---------------------------------------------------------------------------------------------
def _from_cache(repo_id: str, select: Select, where: Mapping[str, Any]) -> str:
    """The folder, if all that is needed is in it.

    Raises:
        LocalEntryNotFoundError: nothing of that revision is here; or an IncompleteSnapshotError: not all.
    """
    storage, commit = _storage(repo_id, where), where.get("revision", MAIN)
    note = storage / "refs" / commit
    if not COMMIT.fullmatch(commit):
        commit = note.read_text(encoding="utf-8").strip() if note.is_file() else "nothing"
    folder = storage / "snapshots" / commit
    if not folder.is_dir():
        raise LocalEntryNotFoundError(f"{repo_id} is not in the cache.")
    missing = [name for name in select(str(folder), _names(repo_id, commit, folder, where)) if name != CARD]
    missing = [name for name in missing if not (folder / name).exists()]
    if missing:
        raise IncompleteSnapshotError(missing[0], str(folder))
    return str(folder)


def _names(repo_id: str, commit: str, folder: Path, where: Mapping[str, Any]) -> list[str]:
    """Of all files of the commit, where the cache knows them; else of those that are in it and those that its index
    needs."""
    try:
        return [e.path for e in get_cached_repo_tree(repo_id, revision=commit, cache_dir=where.get("cache_dir"))]
    except CachedRepoTreeNotFoundError:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.exists()]
    if MODEL_INDEX not in names:
        return names if "config.json" in names else [*names, MODEL_INDEX]
    for component, _, _ in component_entries(read_index(folder)):
        has = {name.partition("/")[2] for name in names if name.startswith(f"{component}/")}
        if "config.json" in has and not any(name.endswith(".safetensors") for name in has):
            names.append(f"{component}/diffusion_pytorch_model.safetensors")
        elif not has and not {"config.json", "scheduler_config.json"} & set(names):
            names.append(f"{component}/config.json")
    return names


def _storage(repo_id: str, where: Mapping[str, Any]) -> Path:
    cache = Path(where.get("cache_dir", constants.HF_HUB_CACHE)).expanduser()
    return cache / repo_folder_name(repo_id=repo_id, repo_type="model")


# --- what can go wrong ------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _clear_errors(repo_id: str, where: Mapping[str, Any]) -> Iterator[None]:
    """Turn what the client raises into one error that says what to do."""
    revision = where.get("revision") or MAIN
    try:
        yield
    except LoadError as error:
        raise LoadError(f"{repo_id}: {error}") from error.__cause__
    except RevisionNotFoundError as error:
        raise LoadError(f"The repository {repo_id!r} has no revision {revision!r}.") from error
    except GatedRepoError as error:
        raise LoadError(
            f"The repository {repo_id!r} is gated: {first_line(error)}\n"
            f"Accept its conditions on its page, {constants.ENDPOINT}/{repo_id}, and give the token of that account:\n"
            "`token=` or `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise LoadError(
            f"There is no folder and no readable repository {repo_id!r}.\n"
            "A private repository needs `token=` or `hf auth login`."
        ) from error
    except IncompleteSnapshotError as error:
        raise LoadError(
            f"Of {repo_id!r} only a part is in the cache: {error} is missing, and the Hub cannot be reached or was\n"
            "not to be asked.\nLoad it once with a connection, without HF_HUB_OFFLINE and local_files_only."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.ConnectError) as error:
        notes = _storage(repo_id, where) / "refs"
        cached = sorted(note.relative_to(notes).as_posix() for note in notes.rglob("*") if note.is_file())
        if cached:
            raise LoadError(
                f"Of {repo_id!r} the revision {revision!r} is not in the cache, only {', '.join(cached[:4])}; the Hub "
                "cannot be\nreached or was not to be asked."
            ) from error
        raise LoadError(
            f"There is no folder {repo_id!r}, and it is not in the cache of the Hub, which cannot be reached or was "
            f"not to be asked{_cause(error)}."
        ) from error
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError) as error:
        raise LoadError(f"{repo_id!r} could not be fetched: {first_line(error)}{_hint(error)}") from error


def _hint(error: BaseException) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    hints = {
        401: "The token is not valid; `hf auth login` stores another.",
        403: "The token may not read it; on the Hub, look at what the token is for.",
        429: "The Hub asks for fewer requests; try again in some minutes.",
    }
    if status in hints:
        return f"\n{hints[status]}"
    return "\nTry again; what has been fetched is kept." if status is None or status >= 500 else ""


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return f" ({first_line(cause)})" if isinstance(cause, HfHubHTTPError) else ""
