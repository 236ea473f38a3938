"""Tokens of the Hub: cleaned where they come in, and left out of what is shown."""

import os
import re

from hfgen.errors import UsageError

TOKEN = re.compile(r"\b(?:(?:hf|api_org)_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,})")
USER = re.compile(r"(?<=://)[^/@\s]+@")  # of an address, such as a proxy's
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SHORTEST = 8  # characters of a text that is left out of messages; a shorter one may be any word
in_use: set[str] = set()  # tokens that this process was given


def clean_token(token: object, name: str = "token") -> str | None:
    """Return a token without the white space around it, which files and shells add; None for an empty one.

    Args:
        name: what gave it, for the message.

    Raises:
        UsageError: it holds what a header of HTTP cannot carry; the message does not hold its text.
    """
    if token is None:
        return None
    if not isinstance(token, str):
        raise UsageError(f"{name} is {type(token).__name__}, not text. Nothing was asked or sent.")
    cleaned = token.strip()
    odd = next((number for number, sign in enumerate(cleaned, 1) if not "!" <= sign <= "~"), None)
    if odd is not None:
        raise UsageError(
            f"{name} cannot be a token: character {odd} of {len(cleaned)} is white space, or none of ASCII's.\n"
            "Copy it again. Nothing was asked or sent."
        )
    if cleaned:
        in_use.add(cleaned)
    return cleaned or None


def usable_token(token: str | bool | None) -> str | bool | None:
    """Return a given token, cleaned; without one, check the token that huggingface_hub finds, and return None."""
    if isinstance(token, bool):
        return token
    given = clean_token(token)
    if given is None:
        from huggingface_hub import get_token

        clean_token(get_token(), "HF_TOKEN, or the token that `hf auth login` stored,")
    return given


def without_secrets(text: str) -> str:
    """Return a text without tokens, and without the users and passwords of addresses.

    >>> without_secrets("Illegal header b'Bearer hf_AAAAAAAAAAAAAAAAAAAAAAAAAA' by http://me:word@proxy:3128")
    "Illegal header b'Bearer ***' by http://proxy:3128"
    """
    stored = {os.environ.get(name, "").strip() for name in VARIABLES}
    for secret in sorted(in_use | stored, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, "***")
    return TOKEN.sub("***", USER.sub("", text))
