"""How a refused load is checked."""

import json
import re

import pytest

from hfgen import HFGenPipeline
from hfgen.errors import HFGenError, LoadError


def refuse(folder, words, error=LoadError, **options):
    """Loading raises this error, whose message names the folder and the thing in at most six lines."""
    with pytest.raises(HFGenError) as caught:
        HFGenPipeline.from_pretrained(folder, **options)
    message = str(caught.value)
    assert isinstance(caught.value, error), repr(caught.value)
    assert str(folder) in message
    assert re.search(words, message.replace(str(folder), ""), re.DOTALL), message
    assert len(message.splitlines()) <= 6
    return caught.value


def edit(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
