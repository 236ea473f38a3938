"""What is read from source files is what the imported classes say."""

import pytest

from hfgen.errors import UsageError
from hfgen.registry import get_family, list_families
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.licenses import LICENSES, known_license, nearest
from hfgen.settings.options import component_choices, objective_signature, signature_of
from hfgen.settings.unimported import check_words, declared_options

FAMILIES = [family.name for family in list_families()]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_option_of_an_imported_class_is_unknown(name):
    family = get_family(name)
    cls, read = family.load(), declared_options(family.module, family.class_name)
    choices = component_choices(cls)
    assert read is not None
    assert read.keys() == {*choices, "objective"}
    for component, options in read.items():
        known = [signature_of(choice) for choice in choices.get(component, ())] or [objective_signature(cls)]
        assert options is None or options.keys() >= {option for signature in known for option in signature}
    assert sum(options is not None for options in read.values()) >= 2


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("from part import Part\nclass P:\n def __init__(self, part: Part): ...", {"part": {"width"}}),
        ("from part import Part as Other\nclass P:\n def __init__(self, part: 'Other'): ...", {"part": None}),
        ("import part\nclass P:\n def __init__(self, part: part.Part): ...", {"part": None}),
        ("from part import Part, Deep\nclass P:\n def __init__(self, part: Part | Deep): ...", {"part": {"width"}}),
        ("from part import Any_\nclass P:\n def __init__(self, part: Any_ | None = None): ...", {"part": None}),
        ("class P:\n def __init__(self, part: Missing): ...", {"part": None}),
        ("class P:\n def __init__(self, **parts): ...", None),
        ("class P(Base): ...", None),
        ("class P(", None),
    ],
)
def test_what_a_source_does_not_say_is_not_refused(tmp_path, monkeypatch, source, known, request):
    name = f"of_{request.node.callspec.indices['source']}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "family.py").write_text(source.replace("from part", f"from {name}.part"))
    part = "class Part:\n def __init__(self, width: int = 3): ...\nclass Deep(Part): ...\n"
    (tmp_path / name / "part.py").write_text(part + "class Any_:\n def __init__(self, **kwargs): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    read = declared_options(f"{name}.family", "P")
    found = read and {key: value if value is None else set(value) for key, value in read.items()}
    assert found == (None if known is None else {**known, "objective": None})
    check_words([("layer", {"part": {"class_name": "Part"}, "seed": 3})], f"{name}.family", "P")
    if known == {"part": {"width"}}:
        with pytest.raises(UsageError, match="layer: part: width is 'x'; expected a whole number"):
            check_words([("layer", {"part": {"width": "x"}})], f"{name}.family", "P")


def test_a_license_is_an_id_of_the_hub():
    assert TrainingArguments(license="MIT").license == known_license("mit") == "mit"
    assert TrainingArguments().license is None
    assert {"apache-2.0", "openrail++", "cc-by-nc-sa-4.0", "other"} <= LICENSES
    assert "array" not in LICENSES
    for name in ("my: own", "mit,gpl-3.0", "Apache 2.0", ""):
        with pytest.raises(UsageError, match="--license: license .* is none that the Hub knows"):
            TrainingArguments(license=name)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Apache 2.0", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("the MIT License", "mit"),
        ("GPLv3", "gpl-3.0"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("cc_by", "cc-by-4.0"),
        ("BSD-3", "bsd-3-clause"),
        ("LGPL v2.1", "lgpl-2.1"),
        ("my: own", None),
        ("", None),
    ],
)
def test_the_nearest_license_is_proposed(said, meant):
    assert nearest(said) == meant
