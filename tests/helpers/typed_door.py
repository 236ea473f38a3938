"""Uses of the door as type checkers must see them; `make types` reads it, and fails on an ignore without need."""

from collections.abc import Mapping
from typing import assert_type

import hfgen
from hfgen import Diagnosis, HFGenPipeline, LogLikelihood, Update


def use(diagnosis: Diagnosis) -> None:
    assert_type(HFGenPipeline.from_pretrained("folder"), HFGenPipeline)
    assert_type(diagnosis.values, Mapping[str, float | list[float]])
    Update("x", 3, "nonsense", 4, 5, 6)  # type: ignore[arg-type, call-arg]
    LogLikelihood(3)  # type: ignore[arg-type, call-arg]
    print(hfgen.Updaet)  # type: ignore[attr-defined]
