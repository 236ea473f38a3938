"""Words: docstrings begin plainly, text is American, and the field's words are used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("hfgen", "plugins", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
# A first sentence is an imperative, or a noun phrase with a verb: it begins with none of these.
BEGINNINGS = set(
    "About According After Against All Among And Any As At Before Below Beside Besides Between Beyond But By Each "
    "Either For From He Her How If In Inside Into It Its Like More Most Neither No None Nothing Of Off On Once One "
    "Only Or Over She Since So Such That Their Them Then There These They This Those Through Till To Under Until Up "
    "Upon What Whatever When Where Whether Which While Who Whose Why With Within Without".split()
)
PHRASES = re.compile(
    r"(?<!there )\b(is|are|was) no\b(?! longer| more)|\btold\b|\bof which\b|\bdata sets?\b|\bon the quiet\b"
    r"|colour|behaviour|neighbour|\bgrey|\bcentre|\blicence|\blabelled\b|\bmodelled\b"
    r"|(initial|recogn|synchron|normal|standard|random|binar|quant|discret|minim|maxim|optim|regular|organ|general)"
    r"is(e|ed|es|ing|ation)\b",
    re.IGNORECASE,
)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            yield getattr(node, "lineno", 1), str(ast.get_docstring(node))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string of a file, docstrings and messages, and of its comments."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        _, mark, comment = line.partition("# ")
        if mark:
            yield number, comment


@pytest.mark.whole
def test_docstrings_begin_with_a_verb_or_a_noun():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in SOURCES
        for line, text in docstrings(path)
        if (re.match(r"[A-Za-z]+", text) or [""])[0] in BEGINNINGS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.whole
def test_text_is_plain_american_english():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {found[0]!r} in {text.strip().splitlines()[0][:90]!r}"
        for path in SOURCES
        for line, text in texts(path)
        if (found := PHRASES.search(text))
    ]
    assert not wrong, "\n".join(wrong)


def test_each_file_says_what_it_alone_is():
    """Two files of one docstring were one file once, and one of the two says what the other is."""
    first: dict[str, Path] = {}
    for path in SOURCES:
        text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        assert not text or text not in first, f"{path} begins as {first[text]}: {text}"
        first[text] = path


if __name__ == "__main__":  # all findings at once: python tests/whole/test_prose.py hfgen/data
    import sys

    for source in SOURCES:
        if any(str(source).startswith(str((ROOT / word).resolve())) for word in sys.argv[1:] or ["."]):
            for check in (test_docstrings_begin_with_a_verb_or_a_noun, test_text_is_plain_american_english):
                try:
                    check(source)
                except AssertionError as error:
                    print(str(error).partition("\nassert ")[0])
