"""Comparisons as Markdown and HTML: text from result files stays text; files are not replaced unasked."""

from html.parser import HTMLParser
from pathlib import Path


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.words = [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def test_a_page_needs_and_runs_nothing(evil, hfgen):
    assert hfgen("compare", *evil, "--output", "page.html")[0] == 0
    page = Path("page.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.found}
    assert names == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "tr", "th", "td", "ul"),
        *("li", "img", "br", "small"),
    } - ({"br", "small"} - names)
    assert {key for _, attributes in tags.found for key in attributes} <= {
        *("lang", "charset", "content", "name", "http-equiv", "class", "alt", "src")
    }
    images = [attributes["src"] for tag, attributes in tags.found if tag == "img"]
    assert len(images) == 1
    assert images[0].startswith("data:image/png;base64,iVBOR")
    assert tags.words.count("<script>alert(1)</script>") > 8
    assert "default-src 'none'" in page


def test_nothing_commands_the_terminal(evil, hfgen):
    for option in ([], ["--json"]):
        code, out, err = hfgen("compare", *evil, *option)
        assert code == 0
        assert "\x1b" not in out + err
    _, out, err = hfgen("compare", *evil, "--protocol", "none")
    assert "\x1b" not in err


def test_a_markdown_table(evil, put, hfgen):
    hfgen("compare", *evil, "--output", "new/table.md")
    lines = Path("new/table.md").read_text(encoding="utf-8").splitlines()
    assert r"\<script\>alert(1)\</script\>\|\$x\_\$ ?" in lines[0]
    assert not any("<script" in line.replace(r"\<", "") for line in lines)
    table = [line for line in lines if line.startswith("| ")]
    bars = [line.replace(r"\|", "").count("|") for line in table]
    assert len({*bars}) == 3  # three tables, each as wide throughout
    hfgen("compare", put("a", fid=(1, 0.01)), put("b", fid=(2, 0.01)), "--output", "b.md")
    assert "| **1.000 +- 0.010** (best) |" in Path("b.md").read_text()


def test_files_are_not_replaced_unasked(put, hfgen):
    put("a")
    Path("x.md").write_text("mine")
    code, _, err = hfgen("compare", "a", "--output", "x.md")
    assert code == 2
    assert "x.md exists" in err
    assert Path("x.md").read_text() == "mine"
    assert hfgen("compare", "a", "--output", "x.md", "--overwrite")[0] == 0
    assert "| a |" in Path("x.md").read_text()
    assert not list(Path().glob(".x.md*"))
    for name in ("x.pdf", "x", "folder/"):
        code, _, err = hfgen("compare", "nothing/at/all", "--output", name)
        assert code == 2
        assert ".md, .html, .png, .svg" in err
    code, _, err = hfgen("compare", "a", "--output", "x.md/y.md")
    assert code == 1
    assert "cannot be written" in err


def test_nothing_to_plot(put, hfgen):
    put("a", {"values": {"recall": {"value": 0.5}}})
    code, _, err = hfgen("compare", "a", "--output", "x.png")
    assert code == 2
    assert "no result has both a FID and seconds per image" in err
    assert hfgen("compare", "a", "--output", "x.html")[0] == 0
    assert "<img" not in Path("x.html").read_text()
