"""Tokens are cleaned where they come in, and no message holds one."""

import pytest

from hfgen import HFGenPipeline
from hfgen.errors import UsageError
from hfgen.settings.arguments import TrainingArguments
from hfgen.tokens import clean_token, in_use, usable_token, without_secrets

TOKEN = "hf_" + "A1b2" * 8
CARRIED = ["{}\r", "{}\n", " {}", "{}\r\n", "\t{} ", "\u00a0{}", "{}\x0b"]
BROKEN = ["ä{}", "{}\x00", "\ufeff{}", "{} {}", "{}\n{}", "{}\x7f", "\u201c{}\u201d"]


@pytest.fixture(autouse=True)
def nothing_in_use(monkeypatch):
    monkeypatch.setattr("hfgen.tokens.in_use", set())
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("text", CARRIED)
def test_white_space_around_is_taken_off(text):
    assert clean_token(text.format(TOKEN)) == TOKEN
    assert TrainingArguments(hub_token=text.format(TOKEN)).hub_token == TOKEN


@pytest.mark.parametrize("text", BROKEN)
def test_what_cannot_be_a_token_is_refused_without_its_text(text, tmp_path, hfgen):
    token = text.format(TOKEN, TOKEN)
    with pytest.raises(UsageError, match="cannot be a token") as error:
        HFGenPipeline.from_pretrained("me/x", token=token)
    assert TOKEN not in str(error.value)
    for words in (["push", tmp_path, "me/m", "--token"], ["train", "dcgan", "--hub_token"]):
        if "\0" not in token:
            done = hfgen(*words, token)
            assert done.code == 2
            assert "oken cannot be a token: character" in done.err
            assert TOKEN not in done.out + done.err


def test_a_token_of_another_type_is_refused_without_its_text():
    with pytest.raises(UsageError, match="token is bytes, not text") as error:
        HFGenPipeline.from_pretrained("me/x", token=TOKEN.encode())
    assert TOKEN not in str(error.value)


def test_empty_is_no_token():
    assert clean_token("") is clean_token(" \n") is clean_token(None) is None
    assert usable_token(False) is False
    assert usable_token(True) is True


def test_the_token_of_the_environment_is_checked_too(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"ä{TOKEN}")
    with pytest.raises(UsageError, match="HF_TOKEN") as error:
        HFGenPipeline.from_pretrained("me/x")
    assert TOKEN not in str(error.value)


def test_messages_hold_no_token(monkeypatch, hfgen, tmp_path):
    clean_token("a-private-word")
    monkeypatch.setenv("HF_TOKEN", "another-private-word\n")
    monkeypatch.setenv("HFGEN_DEBUG", "0")  # `--debug` sets it, for the processes that a training starts
    assert without_secrets("a-private-word, another-private-word") == "***, ***"
    assert "another-private-word" not in in_use
    for words in (
        ["train", "dcgan", TOKEN],  # of click
        ["train", "dcgan", f"--hub_tokne={TOKEN}"],
        ["push", tmp_path / TOKEN, "me/m", "--dry_run"],  # of hfgen
        ["--debug", "push", tmp_path / TOKEN, "me/m", "--dry_run"],
    ):
        done = hfgen(*words)
        assert done.code == 2
        assert TOKEN not in done.out + done.err
        assert done.err
