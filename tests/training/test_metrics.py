"""Metrics of an objective: floats, ints and tensors; names of the training's own are refused at the first step."""

import pytest
import torch

from hfgen import Update
from hfgen.errors import HFGenError
from hfgen.run_folder import read_metrics
from hfgen.training.metrics import Window


@pytest.fixture
def window():
    return Window(lambda tensor: tensor, "ToyObjective", ["generator", "critic"])


def test_numbers_of_every_kind_are_averaged(window):
    for loss in (1.0, 3.0):
        metrics = {"a": loss, "b": int(loss), "c": torch.tensor([loss]), "d": torch.tensor(int(loss)), "e": loss > 2}
        window.add_update(Update("generator", torch.tensor(loss), metrics))
    window.add({"usage": 0.25}, "returns")
    assert window.means() == {"generator_loss": 2, "a": 2, "b": 2, "c": 2, "d": 2, "e": 0.5, "usage": 0.25}
    other = Window(lambda tensor: tensor, "ToyObjective")
    other.load_state_dict(window.state_dict(), torch.device("cpu"))
    other.add({"a": 5.0}, "returns")
    assert other.means()["a"] == 3


def test_the_share_of_time_that_is_waited_for_data(window, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("hfgen.training.metrics.time.perf_counter", lambda: float(next(clock)))
    window.start()  # at 0; each look at the clock is a second later
    for _ in window.waiting_for(["a", "b"]):  # waited from 1 to 2, from 3 to 4, and for the end from 5 to 6
        window.steps += 1
    assert window.steps_per_second() == 2 / 7
    assert window.times()["data_wait"] == round(3 / 7, 4)
    window.restart()
    window.steps_per_second()
    assert window.times()["data_wait"] == 0


TAKEN = [
    *("step", "epoch", "learning_rate", "seconds", "images_per_second", "data_wait", "skipped_steps", "diagnosis"),
    *("validation_fid", "validation_bits_per_dim", "generator_loss", "critic_loss"),
]


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_of_the_trainings_own_is_refused(window, name):
    with pytest.raises(HFGenError, match=f"ToyObjective yields a metric '{name}'"):
        window.add_update(Update("critic", torch.tensor(1.0), {name: torch.tensor(7.0)}))
    with pytest.raises(HFGenError, match=f"ToyObjective returns '{name}'"):
        window.add({name: 7.0}, "returns")
    if name != "generator_loss":
        with pytest.raises(HFGenError, match=f"ToyObjective calls a loss '{name}'"):
            window.add_update(Update("generator", torch.tensor(1.0), name=name))


def test_a_loss_and_a_metric_of_one_name_are_refused_in_either_order(window):
    window.add_update(Update(("generator", "critic"), torch.tensor(1.0)))
    with pytest.raises(HFGenError, match="yields a metric 'loss'"):
        window.add_update(Update("generator", torch.tensor(1.0), {"loss": 1.0}))
    window.add({"gap": 1.0}, "returns")
    with pytest.raises(HFGenError, match="calls a loss 'gap'"):
        window.add_update(Update("generator", torch.tensor(1.0), name="gap"))


def test_a_loss_with_a_name_of_its_own_comes_again_at_each_step(window):
    for loss in (1.0, 3.0):
        window.add_update(Update("critic", torch.tensor(loss), name="bits_per_dim"))
    assert window.sums["bits_per_dim"] == 4


@pytest.mark.parametrize(("value", "words"), [(torch.zeros(2), r"a tensor \(2,\)"), ("high", "str")])
def test_a_metric_is_one_number(window, value, words):
    with pytest.raises(HFGenError, match=f"ToyObjective: the metric 'x' is {words}; expected one number"):
        window.add({"x": value}, "returns")


def test_a_training_refuses_it_at_its_first_step_and_writes_nothing(make, tmp_path):
    trainer = make(tmp_path / "run", logging_steps=1)
    yielding = trainer.objective.training_step

    def training_step(batch):
        for update in yielding(batch):
            yield update._replace(metrics={"epoch": 7.0})

    trainer.objective.training_step = training_step
    with pytest.raises(HFGenError, match="DCGANObjective yields a metric 'epoch'"):
        trainer.train()
    assert trainer.step == 0
    assert read_metrics(tmp_path / "run") == []


def test_a_callback_gets_the_step_and_the_line_that_was_written(make, tmp_path):
    seen = []
    make(tmp_path / "run", logging_steps=2, max_train_steps=5, validation_steps=0).train(
        on_step=lambda step, line: seen.append((step, line and line["step"]))
    )
    assert seen == [(1, None), (2, 2), (3, None), (4, 4), (5, 5)]
