"""The account of a token: its name, which completes a repository's, and where it may write."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from hfgen import __version__
from hfgen.errors import UsageError, first_line
from hfgen.hub.client import hint, is_transient, patiently
from hfgen.hub.upload import Place
from hfgen.tokens import usable_token

TIMEOUT = 10.0  # seconds
WRITES = "repo.write"  # permission of a fine-grained token
MAY_NOT = "--push_to_hub: the token may not write to {}: {}. A token of the role `write` for it is needed."


def require_token(token: str | bool | None, missing: str) -> str | None:
    """Return a given token, cleaned, and None for the stored one.

    Args:
        missing: the message where there is neither.
    """
    given = usable_token(token)
    if given is False or not (given or get_token()):
        raise UsageError(missing)
    return given if isinstance(given, str) else None


def account_of(token: str | None) -> Mapping[str, Any]:
    """Ask the Hub whose token this is; raises the errors of huggingface_hub."""
    headers = build_hf_headers(token=token or True, library_name="hfgen", library_version=__version__)
    answer = get_session().get(f"{constants.ENDPOINT}/api/whoami-v2", headers=headers, timeout=TIMEOUT)
    hf_raise_for_status(answer)
    found: Mapping[str, Any] = answer.json()
    return found


def complete(place: Place, token: str | None) -> Place:
    """Return a place whose repository has its account's name, as the Hub would complete it."""
    if "/" in place.repo_id:
        return place
    name = patiently(lambda: account_of(token))["name"]
    return dataclasses.replace(place, repo_id=f"{name}/{place.repo_id}")


def check_access(place: Place, token: str | None, say: Callable[[str], Any]) -> None:
    """Ask once whether a token may write to a repository; a Hub that cannot be reached is only reported.

    Raises:
        UsageError: the Hub does not know the token, or the token may not write there.
    """
    try:
        account = account_of(token)
    except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        if isinstance(error, HfHubHTTPError) and not is_transient(error):
            raise UsageError(
                f"--push_to_hub: the Hub refuses the token: {first_line(error)}{hint(error, '')}"
            ) from error
        why = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else first_line(error)
        say(f"warning: the Hub was not reached ({why}); whether the token may push there was not checked")
        return
    refused = why_not(account, place.repo_id)
    if refused:
        raise UsageError(MAY_NOT.format(place.repo_id, refused))


def why_not(account: Mapping[str, Any], repo_id: str) -> str | None:
    """Return why an account's token cannot write to a repository; None if it can, or if that is not known.

    Args:
        account: the Hub's answer to `whoami-v2`.

    >>> reader = {"name": "me", "auth": {"accessToken": {"role": "read"}}}
    >>> why_not(reader, "me/model"), why_not({"name": "me"}, "me/model")
    ('its role is `read`', None)
    >>> why_not({"name": "me", "orgs": [{"name": "club"}]}, "they/model")
    "it is of 'me', who belongs to club, not to 'they'"
    """
    name, owner = account.get("name", ""), repo_id.rpartition("/")[0] or account.get("name", "")
    orgs = {org.get("name", ""): org for org in account.get("orgs") or ()}
    token = (account.get("auth") or {}).get("accessToken") or {}
    if owner != name and owner not in orgs:
        of = f", who belongs to {', '.join(sorted(orgs))}, not to {owner!r}" if orgs else f", not of {owner!r}"
        return f"it is of {name!r}{of}"
    if token.get("role") == "read" or orgs.get(owner, {}).get("roleInOrg") == "read":
        return "its role is `read`"
    if token.get("role") == "fineGrained" and not _is_granted(token.get("fineGrained") or {}, owner, repo_id):
        return f"it is a fine-grained token without `{WRITES}` there"
    return None


def _is_granted(grants: Mapping[str, Any], owner: str, repo_id: str) -> bool:
    """Return True if a fine-grained token may write to a repository, or to all of its owner's."""
    scopes = grants.get("scoped") or ()
    return any(
        WRITES in scope.get("permissions", ()) and (scope.get("entity") or {}).get("name") in (owner, repo_id)
        for scope in scopes
    )
