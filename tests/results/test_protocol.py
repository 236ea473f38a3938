"""Protocol files, and the fields in which two protocols differ."""

import pytest

from hfgen.errors import UsageError
from hfgen.results.metrics import METRICS, chosen
from hfgen.results.protocol import Protocol, differing_fields, read_protocol


def test_a_protocol_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nnum_image: 5\n")
    with pytest.raises(UsageError, match="unknown key 'num_image'. Did you mean 'num_images'"):
        read_protocol(str(path))
    path.write_text("name: mine\nnum_images: 0\n")
    with pytest.raises(UsageError, match="num_images is 0"):
        read_protocol(str(path))
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match="is not a protocol"):
        read_protocol(str(path))


def test_protocols_that_differ():
    one = Protocol(name="a").to_dict()
    assert differing_fields(one, Protocol(name="a", num_images=500).to_dict()) == ["num_images"]
    assert differing_fields(one, one) == []
    older = {name: value for name, value in one.items() if name != "center_crop"}
    assert differing_fields(older, one) == []
    assert differing_fields(older, Protocol(name="a", center_crop=False).to_dict()) == ["center_crop"]


def test_short_names_of_metrics():
    assert chosen("IS, prdc", list(METRICS), "--metrics") == [
        *("inception_score", "precision", "recall", "density", "coverage")
    ]
