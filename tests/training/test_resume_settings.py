"""What may change when a run resumes, and what not."""

import pytest

from hfgen.errors import UsageError
from hfgen.settings.arguments import FIELDS
from hfgen.settings.fields import option
from hfgen.training import resume_settings

THEN = {
    name: 1
    for name in (
        *resume_settings.FIXED,
        *resume_settings.FIXED_FACTS,
        *resume_settings.REPORTED,
        *resume_settings.REPORTED_FACTS,
    )
}


def test_every_option_has_a_rule_for_resuming():
    assert {f.metadata["resume"] for f in FIELDS.values()} == {"fixed", "reported", "free"}
    assert len(resume_settings.FIXED) == 16
    assert len(resume_settings.REPORTED) == 27
    with pytest.raises(TypeError, match="resume"):
        option(1, "An option without one.")


def test_what_must_not_change_is_named_with_both_values(tmp_path):
    now = {**THEN, "seed": 2, "components": {"unet": {"width": 3}}}
    then = {**THEN, "components": {"unet": {"width": 4, "depth": 1}, "other": {}}}
    now["components"]["unet"]["depth"], now["components"]["other"] = 1, {}
    with pytest.raises(UsageError) as error:
        resume_settings.compare(tmp_path, then, now)
    assert "components {'unet': {'width': 4}}, this run has {'unet': {'width': 3}}" in str(error.value)
    assert "seed 1, this run has 2" in str(error.value)
    assert "Resume with the same settings, or start a new run." in str(error.value)


@pytest.mark.parametrize("name", ["image_column", "label_column"])
def test_other_images_or_classes_of_the_same_data_set_are_another_training(tmp_path, name):
    with pytest.raises(UsageError, match=f"with --{name} 1, this run has 2"):
        resume_settings.compare(tmp_path, THEN, {**THEN, name: 2})


def test_what_an_older_version_did_not_know_is_not_told(tmp_path):
    then = {name: value for name, value in THEN.items() if name != "sync_batch_norm"}
    assert resume_settings.compare(tmp_path, then, THEN) == []


def test_another_family_is_told_before_all_that_differs_with_it(tmp_path):
    with pytest.raises(UsageError, match="is of 1; this run trains 2"):
        resume_settings.compare(tmp_path, THEN, {**THEN, "model": 2, "seed": 3})


@pytest.mark.parametrize(
    "name", ["--learning_rate", "--mixed_precision", "--validation_split", "num_processes", "hfgen", "torch"]
)
def test_what_may_change_is_reported(tmp_path, name):
    assert resume_settings.compare(tmp_path, THEN, {**THEN, name.removeprefix("--"): 2}) == [
        f"{name} was 1 up to the checkpoint and is 2 from here on"
    ]
    assert resume_settings.compare(tmp_path, THEN, dict(THEN)) == []
