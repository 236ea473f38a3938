"""The pages that are executed and checked: README.md and docs/*.md; and what is read out of them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def name_of(path):
    """`docs/train.md`, for the names of tests."""
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    """The code blocks of a language, in order."""
    return [code for of, code in FENCE.findall(path.read_text(encoding="utf-8")) if of == language]


def commands(path):
    """The `hfgen` commands of the shell blocks, without comments and without variables before them."""
    lines = [re.sub(r"^(\w+=\S+ )+", "", line) for block in blocks(path, "sh") for line in block.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("hfgen")]


def without_code(path):
    """The text without code blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def links(path):
    """(file, anchor) of each link and image to a file of the repository; the anchor may be empty."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(path))
    local = [target for target in targets if not re.match(r"\w+:", target)]
    return [((path.parent / file) if file else path, anchor) for file, _, anchor in (t.partition("#") for t in local)]


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", without_code(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
