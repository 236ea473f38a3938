"""Downloads from the Hub: only the files that are needed, all of one commit, each with the content that was announced.

Requests that huggingface_hub gives up on are tried again if another try may succeed. If the Hub cannot be reached, the
cache is used, provided that it has all that is needed.
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
from hfgen.cards.card import CARD
from hfgen.components import MOST_LEVELS
from hfgen.errors import LoadError, first_line
from hfgen.files import MOST_BYTES, MOST_TABLE, digest
from hfgen.hub.client import bars_on_a_terminal_only, hint, is_transient, patiently, status_of
from hfgen.repository.checks import FETCHING, check_variant
from hfgen.repository.index import CONFIG, MODEL_INDEX, SCHEDULER_CONFIG
from hfgen.repository.model_folder import ModelFolder
from hfgen.repository.weights import WEIGHTS, variant_of
from hfgen.tokens import usable_token

Names = Collection[str]
Entries = Mapping[str, Any]  # name -> the Hub's entry of a file: size, blob_id, lfs
Select = Callable[[ModelFolder, Names], list[str]]  # what is there so far, names in the repository -> names needed

TIMEOUT = 10.0  # seconds, for the first request; huggingface_hub's for files is the same
MAIN = "main"
SMALL = (MODEL_INDEX, CONFIG, SCHEDULER_CONFIG)
COMMIT = re.compile(r"[0-9a-f]{40}")
TEXTS = (".json", ".md", ".txt", ".yaml")
TRIES = 2  # for a file that arrives with another content


def local_folder(target: str | os.PathLike[str], patterns: Sequence[str] = (), /, **kwargs: Any) -> ModelFolder:
    """Return a local folder as it is, or fetch what is needed of a repository; raises as `download`.

    Args:
        target: a folder or a repository id.
        patterns: fetch the files that match these instead.
        kwargs: those of `from_pretrained`. With `subfolder`, that folder alone is fetched and returned.
    """
    if isinstance(target, ModelFolder):
        return target
    target, subfolder = os.fspath(target), kwargs.get("subfolder") or ""
    if os.path.isdir(target):
        return ModelFolder(os.path.join(target, subfolder) if subfolder else target, target)
    if os.path.exists(target) or target.startswith((".", "/", "~")) or target.count("/") > 1:
        raise LoadError(f"{target!r} is not a folder; give a folder with a {MODEL_INDEX}, or a repository id.")
    found = download(target, patterns, **kwargs)
    return ModelFolder(found.path / subfolder, target) if subfolder else found


def download(repo_id: str, patterns: Sequence[str] = (), /, **kwargs: Any) -> ModelFolder:
    """Fetch what is needed of a repository's pipeline; return the folder, whose files belong to one commit.

    That is the index, and the configs and weights of each component that is not among the arguments, also of pipelines
    inside (weights of the variant, if the component has it): no code, no pickles, no other variants, no checkpoints.

    Args:
        patterns: fetch the files that match these instead.
        kwargs: those of `from_pretrained`. With `subfolder`, that folder alone is fetched.

    Raises:
        LoadError: the repository or revision does not exist or may not be read; there is no connection and the cache
            is incomplete; or a file arrives with another content than the Hub announced.
    """
    where = {name: kwargs[name] for name in FETCHING if kwargs.get(name) is not None}
    where |= {} if (token := usable_token(where.pop("token", None))) is None else {"token": token}

    def select(folder: ModelFolder, names: Names) -> list[str]:
        return matching(names, patterns) if patterns else needed(folder, names, kwargs)

    with _clear_errors(repo_id, dict(where)), bars_on_a_terminal_only():
        if where.pop("local_files_only", False) or constants.is_offline_mode():
            return _from_cache(repo_id, select, where)
        if COMMIT.fullmatch(where.get("revision", "")) and not where.get("force_download"):
            with contextlib.suppress(LocalEntryNotFoundError):  # a commit never changes: the Hub need not be asked
                return _from_cache(repo_id, select, where)
        try:
            commit, entries = _ask(repo_id, where)
        except Exception as error:
            if not is_transient(error):
                raise
            with contextlib.suppress(LocalEntryNotFoundError):
                return _from_cache(repo_id, select, where)
            if isinstance(error, httpx2.ConnectError):  # the Hub cannot be reached; after other errors it may be busy
                raise
            commit, entries = patiently(lambda: _ask(repo_id, where))
        folder = _fetch(repo_id, commit, entries, select, where)
        _note(repo_id, commit, where)
        return folder


# --- which files ------------------------------------------------------------------------------------------------
def matching(names: Names, patterns: Sequence[str]) -> list[str]:
    """Names that match a pattern, in which `*` does not match `/`; weights of variants are left out."""
    plain = [n for n in names if not (n.endswith(".safetensors") and n.rpartition("/")[2].count(".") > 1)]
    return [n for n in plain if any(n.count("/") == p.count("/") and fnmatch.fnmatchcase(n, p) for p in patterns)]


def needed(folder: ModelFolder, names: Names, kwargs: Mapping[str, Any]) -> list[str]:
    """Names of the files that `from_pretrained` reads with these arguments; only the first, until the index is here.

    Args:
        folder: what has been fetched so far.
        names: all files of the repository.
    """
    variant = kwargs.get("variant")
    if kwargs.get("subfolder"):
        return component_files(names, f"{kwargs['subfolder']}/", variant)
    first = [name for name in (MODEL_INDEX, CARD) if name in names]
    if MODEL_INDEX not in names:  # a single model
        return [*first, *component_files(names, "", variant)]
    if not (folder.path / MODEL_INDEX).exists():
        return first
    check_variant(variant, [name for name in names if name.count("/") <= MOST_LEVELS])
    files = [*first, *_of_components(folder, names, variant, kwargs)]
    indexes = [name for name in files if name.endswith(f"/{MODEL_INDEX}") and not (folder.path / name).exists()]
    return [*first, *indexes] if indexes else list(dict.fromkeys(files))  # they pass their checks before more is asked


def _of_components(folder: ModelFolder, names: Names, variant: str | None, given: Collection[str] = ()) -> list[str]:
    """Names of the files of a pipeline's components; of a pipeline inside only the index, until that is here."""
    chosen: list[str] = []
    for component in [name for name in folder.components if name not in given]:
        own = [name.partition("/")[2] for name in names if name.startswith(f"{component}/")]
        if MODEL_INDEX in own:
            inner = folder.inside(component)
            found = [MODEL_INDEX]
            if (inner.path / MODEL_INDEX).exists():
                with inner.clear_errors():
                    found += _of_components(inner, own, variant)
            chosen += [f"{component}/{name}" for name in found]
        else:
            prefix = f"{component}/" if own else ""  # diffusers' first repositories have them beside the index
            chosen += component_files(names, prefix, variant)
    return chosen


def component_files(names: Names, prefix: str, variant: str | None) -> list[str]:
    """Configs, texts and weights of one component; weights of the variant, if it has them.

    >>> names = ["a/config.json", "a/model.safetensors", "a/model.fp16.safetensors", "a/model.bin", "a/x/config.json"]
    >>> component_files(names, "a/", "fp16")
    ['a/config.json', 'a/model.fp16.safetensors']
    >>> component_files(names, "a/", None)
    ['a/config.json', 'a/model.safetensors']
    """
    own = [n for n in names if n.startswith(prefix) and "/" not in n[len(prefix) :]]
    weights = [n for n in own if n.endswith(".safetensors") and WEIGHTS.fullmatch(n[len(prefix) :])]
    plain = [name for name in weights if variant_of(name) is None]
    varied = [name for name in weights if variant and variant_of(name) == variant]
    texts = (".json",) if not prefix else (".json", ".txt")
    return [name for name in own if name.endswith(texts)] + (varied or plain)


# --- from the Hub -----------------------------------------------------------------------------------------------
def _ask(repo_id: str, where: Mapping[str, Any]) -> tuple[str, Entries]:
    """Ask the Hub for the commit that the revision is now, and for its files."""
    api = HfApi(library_name="hfgen", library_version=__version__, token=where.get("token"))
    revision = where.get("revision", MAIN)
    info: Any = api.repo_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
    if not COMMIT.fullmatch(info.sha or ""):
        raise LoadError(f"the Hub does not say which commit {revision!r} is.")
    return info.sha, {sibling.rfilename: sibling for sibling in info.siblings or ()}


def _note(repo_id: str, commit: str, where: Mapping[str, Any]) -> None:
    """Note in the cache which commit a branch is, as huggingface_hub does, once all that is needed has arrived."""
    revision = where.get("revision", MAIN)
    if revision != commit:
        with contextlib.suppress(OSError):  # the cache may be read-only
            note = _storage(repo_id, where) / "refs" / revision
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(commit, encoding="utf-8")


def _fetch(repo_id: str, commit: str, entries: Entries, select: Select, where: Mapping[str, Any]) -> ModelFolder:
    """Fetch the index; then, once it has passed its check, what it needs."""
    folder, done = _snapshot(repo_id, commit, where), set[str]()
    if where.get("force_download") and MODEL_INDEX in entries:  # the cached one may be damaged
        _get(repo_id, commit, {MODEL_INDEX: entries[MODEL_INDEX]}, where)
        done = {MODEL_INDEX}
    while True:
        names = set(select(folder, entries)) - done
        new = {n: entries[n] for n in names if where.get("force_download") or not (folder.path / n).exists()}
        if not new:
            return folder
        _get(repo_id, commit, new, where)
        done |= set(new)


def _get(repo_id: str, commit: str, entries: Entries, where: Mapping[str, Any]) -> None:
    """Fetch files of a commit, and check that each has the content that the Hub announced."""
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
        for name in wrong:  # so that no other program reads them
            (folder / name).resolve().unlink(missing_ok=True)  # two names with one content share a blob
            (folder / name).unlink(missing_ok=True)
    raise LoadError(
        f"{wrong[0]} arrived damaged, {TRIES} times: its content is not what the Hub announced. It was deleted.\n"
        "The connection, or a proxy on the way, changes files; try again later with force_download=True."
    )


def _check_sizes(entries: Entries) -> None:
    for name, entry in entries.items():
        most = MOST_BYTES if name.rpartition("/")[2] in SMALL else MOST_TABLE
        if name.endswith(TEXTS) and (entry.size or 0) > most:
            raise LoadError(
                f"{name} has {entry.size:,} bytes, hfgen reads at most {most:,} of such a file; it was not fetched.\n"
                "A model's file is never so long; report it to those who published it."
            )


def _is_as_announced(path: Path, entry: Any) -> bool:
    """Compare with the hash that the Hub lists: sha256 for large files, git's own for small ones."""
    if entry.lfs is not None:
        return digest("sha256", path) == entry.lfs.sha256
    return entry.blob_id is None or digest("sha1", path, b"blob %d\0" % path.stat().st_size) == entry.blob_id


# --- from the cache ---------------------------------------------------------------------------------------------
def _from_cache(repo_id: str, select: Select, where: Mapping[str, Any]) -> ModelFolder:
    """Return the cached folder, if all that is needed is in it.

    Raises:
        LocalEntryNotFoundError: nothing of that revision is cached; an IncompleteSnapshotError: only a part is.
    """
    commit = where.get("revision", MAIN)
    note = _storage(repo_id, where) / "refs" / commit
    if not COMMIT.fullmatch(commit):
        commit = note.read_text(encoding="utf-8").strip() if note.is_file() else "nothing"
    folder = _snapshot(repo_id, commit, where)
    if not folder.path.is_dir():
        raise LocalEntryNotFoundError(f"{repo_id} is not in the cache.")
    missing = [name for name in select(folder, _names(repo_id, commit, folder, where)) if name != CARD]
    missing = [name for name in missing if not (folder.path / name).exists()]
    if missing:
        raise IncompleteSnapshotError(missing[0], str(folder))
    return folder


def _names(repo_id: str, commit: str, folder: ModelFolder, where: Mapping[str, Any]) -> list[str]:
    """Names of all files of the commit, if the cache knows them; else of the cached files, and of those that the index
    needs."""
    try:
        return [e.path for e in get_cached_repo_tree(repo_id, revision=commit, cache_dir=where.get("cache_dir"))]
    except CachedRepoTreeNotFoundError:
        names = [path.relative_to(folder).as_posix() for path in folder.path.rglob("*") if path.exists()]
    if MODEL_INDEX not in names:
        return names if CONFIG in names else [*names, MODEL_INDEX]
    return [*names, *_unlisted(folder, names)]


def _unlisted(folder: ModelFolder, names: Names) -> list[str]:
    """Names of files that a pipeline needs, one for each component that is not whole."""
    missing: list[str] = []
    for component in folder.components:
        has = {name.partition("/")[2] for name in names if name.startswith(f"{component}/")}
        if MODEL_INDEX in has:
            missing += [f"{component}/{name}" for name in _unlisted(folder.inside(component), has)]
        elif CONFIG in has and not any(name.endswith(".safetensors") for name in has):
            missing.append(f"{component}/diffusion_pytorch_model.safetensors")
        elif not has and not {CONFIG, SCHEDULER_CONFIG} & set(names):
            missing.append(f"{component}/{CONFIG}")
    return missing


def _storage(repo_id: str, where: Mapping[str, Any]) -> Path:
    cache = Path(where.get("cache_dir", constants.HF_HUB_CACHE)).expanduser()
    return cache / repo_folder_name(repo_id=repo_id, repo_type="model")


def _snapshot(repo_id: str, commit: str, where: Mapping[str, Any]) -> ModelFolder:
    return ModelFolder(_storage(repo_id, where) / "snapshots" / commit, repo_id)


# --- what can go wrong ------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _clear_errors(repo_id: str, where: Mapping[str, Any]) -> Iterator[None]:
    """Turn the client's errors into one that says what to do."""
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
            f"Accept its conditions on its page, {constants.ENDPOINT}/{repo_id}, and give the token of that account\n"
            "by `token=` or `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise LoadError(
            f"There is no folder and no readable repository {repo_id!r}.\n"
            "A private repository needs `token=` or `hf auth login`."
        ) from error
    except IncompleteSnapshotError as error:
        raise LoadError(
            f"Only a part of {repo_id!r} is in the cache: {error} is missing, and the Hub cannot be reached, or its "
            "use was\nturned off. Load it once with a connection, without HF_HUB_OFFLINE and local_files_only."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.ConnectError) as error:
        notes = _storage(repo_id, where) / "refs"
        cached = sorted(note.relative_to(notes).as_posix() for note in notes.rglob("*") if note.is_file())
        if cached:
            raise LoadError(
                f"The revision {revision!r} of {repo_id!r} is not in the cache, only {', '.join(cached[:4])};\n"
                "and the Hub cannot be reached, or its use was turned off."
            ) from error
        raise LoadError(
            f"There is no folder {repo_id!r}, and it is not in the cache; the Hub cannot be reached, or its use was "
            f"turned off{_cause(error)}."
        ) from error
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError) as error:
        raise LoadError(f"{repo_id!r} could not be fetched: {first_line(error)}{_hint(error)}") from error


def _hint(error: BaseException) -> str:
    status = status_of(error)
    if status is None or status >= 500:
        return "\nTry again; files that have been fetched are kept."
    return hint(error, forbidden="The token may not read it; check the token's permissions on the Hub.")


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return f" ({first_line(cause)})" if isinstance(cause, HfHubHTTPError) else ""
