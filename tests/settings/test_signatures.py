"""Options of a pipeline's methods: which, of which type, and what is said of others."""

import doctest
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import pytest

from hfgen.errors import UsageError
from hfgen.settings import signatures
from hfgen.settings.signatures import declared, described, help_of, own_options, refuse_options, typed_texts

if TYPE_CHECKING:
    from nowhere import Unknown


class Base:
    def decode(self, latents, class_labels=None):
        """Decode."""


class Drawn(Base):
    def sample(
        self,
        noise,
        class_labels=None,
        num_inference_steps: int | None = None,
        strength: float = 1.0,
        churn: bool = False,
        order: Literal[1, 2] = 1,
        way: Literal["on", "off"] | None = None,
        levels: Sequence[int] | None = None,
        prompt: str = "",
        **more,
    ):
        """Sample.

        Args:
            num_inference_steps: is everyone's.
            strength: how strong it is, on
                two lines.
            churn, order: of the solver.

        Raises:
            UsageError: never.
        """

    def encode(self, images, class_labels=None, seeds=None, other: "Unknown" = None): ...


def test_options_are_the_parameters_that_hfgen_does_not_give():
    assert list(own_options(Drawn, "sample")) == ["strength", "churn", "order", "way", "levels", "prompt"]
    assert own_options(Drawn, "decode") == {}
    assert list(own_options(Drawn, "encode")) == ["other"]  # whose annotation only a type checker can read


def test_they_are_described_as_they_are_declared():
    found = described(Drawn, "sample")
    assert found["strength"] == "float = 1.0: how strong it is, on two lines."
    assert found["order"] == "Literal[1, 2] = 1: of the solver."
    assert found["way"] == "Literal['on', 'off'] | None = None"
    assert set(help_of(Drawn.sample)) == {"num_inference_steps", "strength", "churn", "order"}
    assert declared(own_options(Drawn, "sample")["levels"]) == "Sequence[int] | None = None"


def test_a_text_becomes_what_the_annotation_says():
    texts = {"strength": "2", "churn": None, "order": "2", "way": "on", "levels": "[3, 1]", "prompt": "3"}
    typed = {"strength": 2.0, "churn": True, "order": 2, "way": "on", "levels": [3, 1], "prompt": "3"}
    found = typed_texts(own_options(Drawn, "sample"), texts)
    assert found == typed
    assert {name: type(value) for name, value in found.items()} == {name: type(v) for name, v in typed.items()}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"strength": None}, "--strength needs a value"),
        ({"strength": "very"}, "--strength is 'very'; expected a number"),
        ({"order": "3"}, "--order is 3; expected one of 1, 2"),
        ({"churn": "3"}, "--churn is 3; expected true or false"),
    ],
)
def test_another_type_is_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        typed_texts(own_options(Drawn, "sample"), texts)


def test_what_no_method_takes_is_refused_with_what_it_takes():
    refuse_options(Drawn(), {"strength": 1}, "sample")
    with pytest.raises(UsageError, match=r"Drawn.sample takes no strenght. Did you mean 'strength'"):
        refuse_options(Drawn(), {"strenght": 1}, "sample")
    with pytest.raises(UsageError, match=r"Drawn.decode takes no strength. It takes no options of its own"):
        refuse_options(Drawn(), {"strength": 1}, "sample", "decode")
    with pytest.raises(UsageError, match="No such option: --strenth. Did you mean --strength"):
        raise signatures.unknown_option("strenth", "Drawn", ["strength"], ["seed"])
    with pytest.raises(UsageError, match="--shift: Drawn takes no such option. It takes --strength."):
        raise signatures.unknown_option("shift", "Drawn", ["strength"], ["shift"])


def test_docstring_examples():
    assert doctest.testmod(signatures) == doctest.TestResults(failed=0, attempted=1)
