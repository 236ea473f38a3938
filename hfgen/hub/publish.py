"""Publishing a run's folder, or any saved pipeline, in a repository on the Hub, as one commit."""

import contextlib
import re
import shlex
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from hfgen import __version__, run_folder
from hfgen.cards import card
from hfgen.errors import HFGenError, UsageError, first_line
from hfgen.hub.access import complete, require_token
from hfgen.hub.client import bars_on_a_terminal_only, hint, patiently
from hfgen.hub.contents import OF_A_RUN, changes, prepared, put_together
from hfgen.hub.upload import Place, Pushed, upload
from hfgen.settings.licenses import LICENSES, unknown_license

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def push_pipeline(
    pipeline: "DiffusionPipeline",
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
    safe_serialization: bool = True,
    bundle_code: bool = False,
    overwrite_card: bool = False,
) -> Pushed:
    """Save a pipeline into a fresh folder and push that. Raises as `publish`, and as `save_pretrained`."""
    place = Place(repo_id, private, revision, create_pr, commit_message or default_message(), overwrite_card)
    options = {"variant": variant, "max_shard_size": max_shard_size, "safe_serialization": safe_serialization}
    options |= {"bundle_code": bundle_code}
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary) / repo_id.rpartition("/")[2]
        with put_together():
            pipeline.save_pretrained(fresh, **{name: value for name, value in options.items() if value is not None})
        pushed = publish(fresh, place, variant, token=token, again=_call(repo_id, private, place, options))
    if any(OF_A_RUN.fullmatch(name) for name in pushed.removed):
        warnings.warn(
            f"The files of a run in {repo_id} (card, metrics, results, images) described the former weights, and were "
            "removed with them. `hfgen push RUN` publishes a run with all its files.",
            stacklevel=3,
        )
    return pushed


def _call(repo_id: str, private: bool | None, place: Place, options: Mapping[str, object]) -> str:
    """The call that pushes a pipeline again; a token has to be given again."""
    given = {"private": private, "revision": place.revision, "create_pr": place.create_pr, **options}
    given["commit_message"] = None if place.commit_message == default_message() else place.commit_message
    defaults = {"safe_serialization": True}
    words = [f"{name}={value!r}" for name, value in given.items() if value not in (None, False, defaults.get(name))]
    return f"pipeline.push_to_hub({', '.join([repr(repo_id), *words])})"


def default_message() -> str:
    return f"Upload with hfgen {__version__}"


def publish(
    folder: Path,
    place: Place,
    variant: str | None = None,
    max_shard_size: str | None = None,
    token: str | None = None,
    again: str | None = None,
    bundle_code: bool = False,
) -> Pushed:
    """Push a folder: the model, and the card, images, metrics and config of a run.

    Files of an earlier upload that this one replaces (shards, images, other components) are removed by the same
    commit.

    Args:
        variant: save the weights as this variant, and add them to those in the repository.
        max_shard_size: split larger weights, for example "5GB".
        again: the command that repeats this, for the messages.
        bundle_code: add the code with which plain diffusers loads it without hfgen (`hfgen.repository.bundle`).

    Raises:
        UsageError: the folder holds no model, or something that must not be published (`hfgen.hub.screening`), or its
            classes cannot be bundled; nothing was sent. Or the repository is public, and `private` was asked for.
        HFGenError: the Hub cannot be reached or refuses. The folder is unchanged.
    """
    again = again or retry_command(folder, place, variant, max_shard_size, bundle_code)
    check_place(place)
    token = require_token(token, "Pushing needs a token: `hf auth login`, or the variable HF_TOKEN. Nothing was sent.")
    with _clear_errors(folder, place, again):
        place = complete(place, token)
    api = HfApi(token=token, library_name="hfgen", library_version=__version__)
    with prepared(folder, place, variant, max_shard_size, again, token, bundle_code) as ready:
        with bars_on_a_terminal_only(), _clear_errors(folder, place, again):
            _check_metadata(ready.files[card.CARD])
            return upload(api, place, lambda there: changes(ready, there))


def check_place(place: Place) -> None:
    """Raise a UsageError if a repository cannot have this name, or this revision cannot be written to."""
    try:
        validate_repo_id(place.repo_id)
    except HFValidationError as error:
        raise UsageError(f"{place.repo_id!r} is not a repository name such as org/name: {error}") from error
    if place.create_pr and place.branch != "main":
        raise UsageError("A pull request is always to main: leave out --revision or --create_pr.")
    if re.fullmatch(r"[0-9a-f]{40}", place.branch):
        raise UsageError("--revision is a commit, to which nothing can be added; give a branch.")


def retry_command(
    folder: Path,
    place: Place,
    variant: str | None = None,
    max_shard_size: str | None = None,
    bundle_code: bool = False,
) -> str:
    """The command line that pushes a folder again; a token has to be given again."""
    values = {"--revision": place.revision, "--variant": variant, "--max_shard_size": max_shard_size}
    if not place.commit_message.endswith(f"with hfgen {__version__}"):
        values["--commit_message"] = place.commit_message
    words = [word for name, value in values.items() if value for word in (name, value)]
    switches = {"--private": place.private, "--create_pr": place.create_pr, "--bundle_code": bundle_code}
    switches |= {"--overwrite_card": place.overwrite_card}
    flags = [flag for flag, on in switches.items() if on]
    return shlex.join(["hfgen", "push", str(folder), place.repo_id, *flags, *words])


# --- what can go wrong ------------------------------------------------------------------------------------------
def _check_metadata(content: Path | bytes) -> None:
    """Refuse invalid metadata of the card, as the Hub would, before a repository is created."""
    text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
    try:
        patiently(lambda: ModelCard(text).validate())
    except (ValueError, yaml.YAMLError) as error:
        check_license(content)
        raise UsageError(f"{card.CARD}: its metadata cannot be read, nothing was sent: {first_line(error)}") from error


def check_license(content: Path | bytes) -> None:
    """Refuse a card whose license is none that the Hub knows, without asking the Hub.

    Raises:
        UsageError: it proposes the nearest id, and says where it is written.
    """
    text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
    try:
        named = ModelCard(text).data.get("license")
    except (ValueError, yaml.YAMLError):
        return
    for name in named if isinstance(named, list) else [named]:
        if name is not None and name not in LICENSES:
            message = unknown_license(str(name), f"{card.CARD}, nothing was sent")
            raise UsageError(
                f"{message}\nWrite it into the license: of {run_folder.CONFIG}; of an edited card, into {card.CARD}."
            )


@contextlib.contextmanager
def _clear_errors(folder: Path, place: Place, again: str) -> Iterator[None]:
    """Turn errors of the upload into one that says what to do."""
    try:
        yield
    except UsageError:
        raise
    except (HfHubHTTPError, httpx2.HTTPError, HFGenError, OSError, ValueError, RuntimeError) as error:
        raise HFGenError(
            f"{folder.resolve().name} was not pushed to {place.repo_id}: {first_line(error)}{_hint(error)}\n"
            f"Nothing was changed locally. Again: {again}"
        ) from error


def _hint(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "\nHF_HUB_OFFLINE is set; unset it."
    return hint(
        error,
        forbidden="The token may not write there: it needs the role `write`; for a repository of others, --create_pr.",
    )
