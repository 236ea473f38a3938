"""Licenses that the Hub knows, so that a card's is checked before a training, without a network.

The ids are those that the Hub itself lists when it refuses another one, as quoted on 2026-05-10 in
https://github.com/huggingface/huggingface_hub/issues/4218. A newer id is written into README.md, or `other`.
"""

import difflib
import re

from hfgen.errors import UsageError

LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
    """.split()
)


def known_license(name: str | None, where: str = "--license") -> str | None:
    """Return a license's id, in small letters as the Hub wants it.

    Raises:
        UsageError: the Hub does not know it; the message proposes the nearest one.
    """
    if name is None or name.lower() in LICENSES:
        return name and name.lower()
    raise UsageError(unknown_license(name, where))


def unknown_license(name: str, where: str) -> str:
    """Return the message on a license that the Hub does not know, with the nearest one that it does."""
    near = nearest(name)
    hint = f" Did you mean {near!r}?" if near else ""
    return (
        f"{where}: license {name!r} is none that the Hub knows.{hint}\n"
        "Give one id of https://huggingface.co/docs/hub/repositories-licenses, or `other` and a file LICENSE."
    )


def nearest(name: str) -> str | None:
    """Return the id that a license's name means most probably.

    >>> [nearest(name) for name in ("Apache License, Version 2.0", "the MIT License", "GPLv3", "CC BY-NC 4.0")]
    ['apache-2.0', 'mit', 'gpl-3.0', 'cc-by-nc-4.0']
    >>> nearest("my: own") is None
    True
    """
    words = re.sub(r"\b(the|licen[cs]e|version|public|v\.?(?=[ \d]))\b|licen[cs]e", " ", name.lower())
    word = "-".join(re.sub(r"(?<=[a-z])v(?=\d)", " ", words).replace(",", " ").replace("_", " ").split())
    starts = [known for known in LICENSES if word and known.startswith(word)]
    starts = sorted(starts, key=lambda known: (-len(known), known), reverse=True)  # of the shortest the newest version
    near = difflib.get_close_matches(word, sorted(LICENSES), n=1, cutoff=0.75)
    return word if word in LICENSES else next(iter([*starts, *near]), None)
