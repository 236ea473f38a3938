"""Errors of libraries become one clear message; hfgen's own pass as they are."""

import pytest

from hfgen.errors import HFGenError, UsageError, clear


def test_an_error_of_a_library_becomes_one_message():
    with (
        pytest.raises(HFGenError, match="^not saved: the disk is full$") as error,
        clear((OSError,), "not saved: {}".format),
    ):
        raise OSError("the disk is full\nand more")
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.parametrize("raised", [UsageError("which is a ValueError too"), KeyError("of another kind")])
def test_errors_of_hfgen_and_of_other_kinds_pass(raised):
    with pytest.raises(type(raised)) as error, clear((ValueError,), "not saved: {}".format):
        raise raised
    assert error.value is raised
