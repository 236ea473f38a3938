"""A card that somebody edited on the Hub is not replaced by the next push without being asked."""

import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from hfgen.cards.card import CARD
from hfgen.cards.parts import is_marked, unmarked
from hfgen.errors import UsageError
from hfgen.hub.client import patiently


def refuse_edited_card(api: HfApi, repo_id: str, commit: str | None, content: Path | bytes) -> None:
    """Refuse to replace a card that is not as hfgen sent it last, unless the new one holds all its lines.

    Args:
        commit: the one that is replaced.
        content: the new card.

    Raises:
        UsageError: it says how to keep the words, and how to replace them.
    """
    with tempfile.TemporaryDirectory() as temporary:
        found = patiently(lambda: api.hf_hub_download(repo_id, CARD, revision=commit, cache_dir=temporary))
        there = Path(found).read_bytes().decode(errors="replace")
    new = content.decode(errors="replace") if isinstance(content, bytes) else content.read_text(encoding="utf-8")
    if is_marked(there) or set(unmarked(there).splitlines()) <= set(new.splitlines()):
        return
    raise UsageError(
        f"{CARD} in {repo_id} was edited there, or is not of hfgen; nothing was sent, so that no words are lost.\n"
        f"To keep them, write them into {CARD} of the folder, a license into the license: of config.yaml too;\n"
        "to propose the new card there, add --create_pr; to replace the one there, --overwrite_card."
    )
