"""A signal or a kill while a model is drawn, diagnosed or measured: nothing is lost, and nothing differs later."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from hfgen.errors import Interrupted
from hfgen.run_folder import read_metrics
from hfgen.training import checkpoint
from hfgen.training.stop_signal import Stopped, StopSignal

SETTINGS = {"validation_steps": 2, "checkpointing_steps": 2, "validation_split": "test"}


class Killed(BaseException):
    """Stands in for a process that ends where it is."""


@pytest.fixture
def make_vae(make_on_splits):
    return lambda folder, **more: make_on_splits(folder, "vae", True, **SETTINGS | more)


@pytest.fixture(scope="module")
def undisturbed():
    """Settings -> what a run left that nobody stopped."""
    return {}


def disturb(trainer, part, step, action):
    """Have a part of the validation of a step begin with an action."""
    family = type(trainer.pipeline)
    owner, name = {
        "grid": (family, "sample"),
        "reconstructions": (family, "reconstruct"),
        "diagnosis": (family.objective_class, "diagnose"),
        "measurement": (family, "log_likelihood"),
    }[part]
    called = getattr(owner, name)

    def disturbed(*arguments, **options):
        if trainer.step == step:
            action()
        return called(*arguments, **options)

    return pytest.MonkeyPatch.context(), owner, name, disturbed


def run_disturbed(trainer, part, step, action, error):
    context, owner, name, disturbed = disturb(trainer, part, step, action)
    with context as patch, pytest.raises(error) as found:
        patch.setattr(owner, name, disturbed)
        trainer.train()
    return found.value


def end(number):
    return lambda: os.kill(os.getpid(), number)


def killed():
    raise Killed


def what_it_left(folder):
    files = [*(folder / "checkpoints").rglob("*.safetensors"), *folder.glob("*/*.safetensors")]
    tensors = {f"{file.relative_to(folder)}:{n}": t for file in files for n, t in load_file(file).items()}
    timed = ("images_per_second", "seconds", "data_wait")
    lines = [{n: value for n, value in line.items() if n not in timed} for line in read_metrics(folder)]
    return tensors, lines, {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}


def assert_equal(left, expected):
    assert left[0].keys() == expected[0].keys()
    assert [name for name, tensor in expected[0].items() if not torch.equal(left[0][name], tensor)] == []
    assert left[1:] == expected[1:]


@pytest.mark.parametrize(
    ("part", "step", "more", "action"),
    [
        ("grid", 2, {"checkpointing_steps": 4}, end(signal.SIGTERM)),  # no checkpoint is due
        ("reconstructions", 4, {}, killed),
        ("diagnosis", 6, {}, end(signal.SIGHUP)),  # the last one
        ("diagnosis", 6, {}, killed),
        ("measurement", 4, {"best_metric": "nats"}, end(signal.SIGTERM)),
        ("measurement", 4, {"best_metric": "nats"}, killed),
    ],
)
def test_a_run_that_was_stopped_while_it_drew_ends_as_an_undisturbed_one(
    make_vae, undisturbed, tmp_path, part, step, more, action
):
    folder = tmp_path / "run"
    if str(more) not in undisturbed:
        whole = make_vae(tmp_path / "whole", **more)
        whole.train()
        undisturbed[str(more)] = what_it_left(tmp_path / "whole"), whole.best.state_dict()
    expected, best = undisturbed[str(more)]
    kind = Killed if action is killed else Interrupted
    error = run_disturbed(make_vae(folder, **more), part, step, action, kind)
    if action is not killed:
        assert f"Stopped at step {step} of 6; a checkpoint was saved." in str(error)
    assert checkpoint.step_of(checkpoint.list_checkpoints(folder)[-1]) == step
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, step))
    again = make_vae(folder, **more)
    again.resume(checkpoint.find_checkpoint("latest", folder))
    again.train()
    assert_equal(what_it_left(folder), expected)
    assert again.best.state_dict() == best
    state = checkpoint.read_state(checkpoint.list_checkpoints(folder)[-1])
    assert (state["pending"], state["window"]["steps"]) == (False, 0)


def test_the_model_is_saved_before_the_last_grid_is_drawn(make_vae, tmp_path):
    trainer = make_vae(tmp_path / "run", checkpointing_steps=0)
    run_disturbed(trainer, "grid", 6, killed, Killed)
    assert (tmp_path / "run" / "model_index.json").is_file()
    saved = load_file(tmp_path / "run" / "decoder" / "diffusion_pytorch_model.safetensors")
    trained = trainer.networks.emas["decoder"].average
    shadows = dict(
        zip((n for n, _ in trainer.pipeline.decoder.named_parameters()), trained.shadow_params, strict=True)
    )
    assert all(torch.equal(saved[name], tensor) for name, tensor in shadows.items())


def test_losses_are_told_before_the_drawing(make_vae, tmp_path, capsys):
    run_disturbed(make_vae(tmp_path / "run"), "grid", 2, killed, Killed)
    assert capsys.readouterr().err.splitlines()[-1].startswith("step 2/6  ")


def test_what_is_measured_is_told(make_vae, tmp_path, capsys):
    make_vae(tmp_path / "run", validation_metrics="nats", validation_steps=0).train()
    assert "step 6/6  validation_nats -" in capsys.readouterr().err.splitlines()[-1]


NUMBERS = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
    signal.SIGQUIT,
]


@pytest.mark.parametrize("number", NUMBERS)
def test_whatever_ends_a_run_saves_a_checkpoint(make, tmp_path, number):
    run, steps = make(tmp_path / "run"), []
    before = signal.signal(number, signal.SIG_DFL)  # a shell's background jobs ignore some
    try:
        with pytest.raises(Interrupted) as error:
            run.train(lambda step, line: steps.append(step) or end(number)())
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert error.value.exit_code == 128 + number
    assert [checkpoint.step_of(place) for place in checkpoint.list_checkpoints(tmp_path / "run")] == [2]


def test_a_signal_that_somebody_else_handles_stays_theirs():
    """`nohup` ignores SIGHUP; a library may have a use for SIGUSR1."""
    came = []
    before = [signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR1, lambda *_: came.append(1))]
    try:
        with StopSignal() as stop:
            end(signal.SIGHUP)()
            end(signal.SIGUSR1)()
        assert (stop.number, came) == (None, [1])
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGUSR1, before[1])


def test_a_second_signal_of_a_person_stops_at_once_and_a_warning_does_not():
    with StopSignal() as stop:
        end(signal.SIGUSR1)()  # a scheduler's warning, then its request
        end(signal.SIGTERM)()
        end(signal.SIGTERM)()  # to each process, and from the launcher
        assert stop.number == signal.SIGUSR1
        with pytest.raises(KeyboardInterrupt):
            end(signal.SIGINT)()


def test_a_signal_that_came_before_is_seen_at_the_start_of_what_can_be_left():
    with StopSignal() as stop:
        end(signal.SIGTERM)()
        with pytest.raises(Stopped), stop.at_once():
            raise AssertionError
        with pytest.raises(Stopped) as error, stop.at_once():
            pass
        assert error.value.number == signal.SIGTERM


def test_a_diagnosis_that_takes_too_long_is_left_out_and_not_tried_at_once_again(make_vae, tmp_path, capsys):
    """A tenth of the time limit here; the run goes on, and the next validation does not try."""
    tried = []

    def slow(*arguments):
        tried.append(1)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.01)

    trainer = make_vae(tmp_path / "run", time_limit="4s", validation_steps=1, max_train_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.pipeline.objective_class, "diagnose", slow)
        trainer.train()
    assert len(tried) == 1
    assert "diagnosing of step 1 took more than 0.4 s and was left out" in capsys.readouterr().err
    lines = read_metrics(tmp_path / "run")
    assert [("diagnosis" in line, "validation_nats" in line) for line in lines] == [(False, True)] * len(lines)


def test_a_time_limit_counts_what_comes_after_the_last_step():
    stop = StopSignal(100)
    assert not stop.time_is_up
    stop.reserve = 101
    assert stop.time_is_up
