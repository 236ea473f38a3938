"""Output that outlasts its terminal, and letters that it cannot show."""

import errno
import io
import os
import sys

import click
import pytest

from hfgen.terminal import LastingStream, keep_output


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1, encoding="ascii")  # where click goes its own ways


def closed_terminal():
    reader, writer = os.openpty()
    stream = os.fdopen(writer, "w", buffering=1)
    os.close(reader)
    return stream


class Failing(io.StringIO):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("make", [broken_pipe, closed_terminal])
@pytest.mark.parametrize("is_result", [True, False])
def test_who_reads_it_may_leave(make, is_result):
    raw = make()
    with pytest.raises(OSError, match=r"Broken pipe|Input/output error"):
        print("a line", file=raw)
    stream = LastingStream(raw, is_result)
    print("step 3/6", file=stream, flush=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        click.echo("run folder x", err=True)
    assert not stream.isatty()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), raw.fileno())  # for what it has buffered
    raw.close()


def test_a_full_disk_matters_for_results_only():
    print("x", file=LastingStream(Failing(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space"):
        print("x", file=LastingStream(Failing(errno.ENOSPC), is_result=True))
    closed = io.StringIO()
    closed.close()
    print("x", file=LastingStream(closed, is_result=True), flush=True)


def test_letters_that_an_encoding_lacks_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)  # closed, as by `2>&-`
    keep_output()
    print("caf\xe9 \udcff", flush=True)
    print("lost", file=sys.stderr, flush=True)
    sys.stderr.stream.close()
    assert raw.getvalue() == b"caf\\xe9 \\udcff\n"
