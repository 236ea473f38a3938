"""`hfgen train --num_processes N`: several processes look like one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from hfgen.errors import UsageError
from hfgen.processes import launcher
from hfgen.processes.child import CONFIG, ERRORS, LAUNCHER, PRECISION, launched_precision, leave_error, resume_command
from hfgen.processes.launcher import ProcessesError, Wanted, launch, read_accelerate_config
from hfgen.run_folder import read_metrics
from hfgen.settings.arguments import TrainingArguments
from hfgen.testing import make_data, quiet_environment

TWO = Wanted(num_processes=2)
START = """
import json, os, pathlib, signal, sys, time
folder, rank = pathlib.Path(__file__).parent, int(os.environ["RANK"])
(folder / f"{rank}.env").write_text(json.dumps({"argv": sys.argv[1:], **os.environ}))
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Takes what the processes do, after noting their environment; returns what both noted."""
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launcher, "_accelerators", lambda: 0)
    monkeypatch.setattr("psutil.Process.parent", lambda self: None)
    others, children = {child.pid for child in psutil.Process().children()}, psutil.Process.children
    # A launcher's signal goes to all its children; those of other tests, as multiprocessing's fork server, stay.
    monkeypatch.setattr("psutil.Process.children", lambda self: [c for c in children(self) if c.pid not in others])
    # torchrun notes the name of the calling method, and reads the sources of all that pytest has on its stack
    rendezvous = "torch.distributed.elastic.rendezvous.dynamic_rendezvous"
    monkeypatch.setattr(f"{rendezvous}.get_method_name", lambda depth=2: "method")
    script = tmp_path / "script.py"
    monkeypatch.setattr(launcher, "SCRIPT", script)

    def start(what="", words=(), wanted=TWO):
        script.write_text(START + what)
        launch(list(words), wanted)
        return [json.loads((tmp_path / f"{rank}.env").read_text()) for rank in range(wanted.num_processes)]

    return start


# --- where the training runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "here"),
    [
        (Wanted(), True),
        (Wanted(1), True),
        (Wanted(2), False),
        (Wanted(1, "single"), True),
        (Wanted(None, "single"), True),
        (Wanted(1, "multi_gpu"), True),
        (Wanted(None, "multi_gpu"), False),
        (Wanted(1, "fsdp2"), False),
        (Wanted(1, "mine.yaml"), False),
        (Wanted(options=["--gpu_ids", "1"]), False),
    ],
)
def test_one_process_trains_where_it_is(wanted, here, monkeypatch):
    assert wanted.here() == here
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert wanted.here(), "it was launched already"


@pytest.mark.whole
def test_two_processes_of_a_cpu(started):
    words = ["--dataset_name", "two words", "--num_processes", "2"]
    first, second = started(words=words)
    assert [first["RANK"], second["RANK"]] == ["0", "1"]
    for process in (first, second):
        assert process["argv"] == words
        assert (process["WORLD_SIZE"], process["GLOO_SOCKET_IFNAME"]) == ("2", "lo")
        assert process[LAUNCHER] == str(os.getpid())
        assert int(process["OMP_NUM_THREADS"]) >= 1
        assert "ACCELERATE_MIXED_PRECISION" not in process
    assert ERRORS not in os.environ, "the launching process is as it was"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.whole
def test_what_the_user_has_set_stays(started, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth9")
    for process in started():
        assert (process["OMP_NUM_THREADS"], process["GLOO_SOCKET_IFNAME"]) == ("7", "eth9")


@pytest.mark.whole
def test_fsdp2_on_a_cpu_is_told_as_accelerate_tells_it(started):
    """`accelerate launch` would start but one process there."""
    wanted = Wanted(2, "fsdp2", ["--mixed_precision", "bf16", "--fsdp_offload_params", "true"])
    for process in started(wanted=wanted):
        told = {name: process[name] for name in process if name.startswith(("ACCELERATE_USE", "FSDP_V", "FSDP_O"))}
        expected = {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true", "FSDP_VERSION": "2"}
        assert told == {**expected, "FSDP_OFFLOAD_PARAMS": "true"}
        assert process["FSDP_RESHARD_AFTER_FORWARD"] == "true"
        assert (process[PRECISION], process[CONFIG]) == ("bf16", "fsdp2")


@pytest.mark.parametrize("name", ["single", "multi_gpu", "fsdp2"])
def test_accelerate_takes_each_configuration_of_the_package(name):
    path, config = read_accelerate_config(name)
    kinds = {"single": "NO", "multi_gpu": "MULTI_GPU", "fsdp2": "FSDP"}
    assert path.name == f"{name}.yaml"
    assert config.distributed_type.value == kinds[name]


def test_on_accelerators_accelerate_launches(started, monkeypatch):
    """With its own machinery: its command is given the configuration, the number and what stood after `--`."""
    seen = []
    monkeypatch.setattr(launcher, "_accelerators", lambda: 2)
    monkeypatch.setattr("accelerate.commands.launch.launch_command", seen.append)
    launch(["dcgan"], Wanted(2, None, ["--gpu_ids", "0,1"]))
    [parsed] = seen
    assert (parsed.num_processes, parsed.gpu_ids, parsed.main_process_port) == (2, "0,1", 0)
    assert parsed.config_file.endswith("accelerate_configs/multi_gpu.yaml")
    assert parsed.training_script_args == ["dcgan"]


def test_a_quiet_accelerate_hides_no_exit_code(started, monkeypatch):
    seen = []
    monkeypatch.setattr(launcher, "_accelerators", lambda: 1)
    monkeypatch.setattr("accelerate.commands.launch.launch_command", seen.append)
    launch([], Wanted(1, None, ["--quiet"]))
    assert seen[0].quiet is False


@pytest.mark.whole
def test_accelerators_may_be_left_alone(started, monkeypatch):
    monkeypatch.setattr(launcher, "_accelerators", lambda: 2)
    for process in started(wanted=Wanted(2, None, ["--cpu"])):
        assert (process["WORLD_SIZE"], process["ACCELERATE_USE_CPU"]) == ("2", "true")


def test_a_process_that_was_started_alone_starts_no_others(monkeypatch):
    monkeypatch.setenv(LAUNCHER, str(os.getppid()))
    assert TWO.here()


def test_without_a_number_there_is_a_process_for_each_accelerator(started, monkeypatch):
    seen = []
    monkeypatch.setattr(launcher, "_accelerators", lambda: 3)
    monkeypatch.setattr("accelerate.commands.launch.launch_command", seen.append)
    launch([], Wanted(None, "multi_gpu"))
    assert seen[0].num_processes == 3


# --- how it ends -----------------------------------------------------------------------------------------------------

TELL = "from hfgen.processes.child import leave_error\n"


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("leave_error('Which data?', 2, True); sys.exit(2)", 2, "Which data?"),
        ("if rank: leave_error('cannot be read', 2, False); sys.exit(2)", 2, "[process 1] cannot be read"),
        ("leave_error(f'The loss is nan, says {rank}', 3, True); sys.exit(3)", 3, "The loss is nan"),
        (
            "if rank: leave_error('no room', 1, True); sys.exit(1)\n"
            "time.sleep(0.2); leave_error('the other is gone', 1, True); sys.exit(1)",
            1,
            "no room",
        ),
        (
            "if rank: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)",
            137,
            "Process 1 of the training was ended by",
        ),
        ("sys.exit(5)", 5, "ended without an error message"),
    ],
)
@pytest.mark.whole
def test_the_first_error_is_told_once_with_its_exit_code(started, what, code, message):
    with pytest.raises(ProcessesError) as error:
        started(TELL + what)
    assert error.value.exit_code == code
    assert message in str(error.value)
    assert str(error.value).count("\n") <= 1


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
@pytest.mark.whole
def test_a_signal_comes_to_each_process_once(started, tmp_path, number):
    what = """
from hfgen.processes.child import leave_error
came = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda n, frame: came.append(n))
(folder / f"{rank}.ready").touch()
while not came:
    time.sleep(0.05)
time.sleep(0.5)
(folder / f"{rank}.came").write_text(str(len(came)))
leave_error("Stopped at step 3; a checkpoint was saved.", 128 + came[0], True)
time.sleep(0.3)
sys.exit(128 + came[0])
"""

    def interrupt():
        while len(list(tmp_path.glob("*.ready"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(ProcessesError, match="a checkpoint was saved") as error:
        started(what)
    assert error.value.exit_code == 128 + number
    assert [(tmp_path / f"{rank}.came").read_text() for rank in (0, 1)] == ["1", "1"]


def test_an_error_without_a_launcher_is_the_processs_own_to_tell(tmp_path, monkeypatch):
    assert not leave_error("x", 1, True)
    monkeypatch.setenv(ERRORS, str(tmp_path))
    monkeypatch.setenv(LAUNCHER, str(os.getppid()))
    assert leave_error("x", 1, True)
    monkeypatch.setenv(LAUNCHER, "1")  # it was killed
    assert not leave_error("x", 1, True)


@pytest.mark.slow  # three processes import all: half a minute
def test_a_training_of_two_processes_is_stopped(tmp_path):
    """By Ctrl-C, as a terminal sends it: to the whole group."""
    data, run = make_data(tmp_path / "blobs.npz", 16, 1), tmp_path / "run"
    words = ["train", "dcgan", "--dataset_name", data, "--generator.base_channels", 4, "--train_batch_size", 4]
    words += ["--discriminator.base_channels", 4, "--num_validation_images", 1, "--logging_steps", 1]
    words += ["--output_dir", run, "--num_processes", 2, "--max_train_steps", 10**6]
    process = python("import sys; from hfgen.commands.main import main; main(sys.argv[1:])", *words)
    while process.poll() is None and not read_metrics(run):  # before its first step it has nothing to save
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert err.count("a checkpoint was saved. Go on with:") == 1
    assert "Traceback" not in err
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_the_processes_of_a_killed_launcher_end_too(tmp_path):
    """As if told to: they would else go on in a folder that the next run takes."""
    script = tmp_path / "script.py"
    waiting = """
from hfgen.processes.child import follow_launcher
def end(number, frame):
    (folder / f"{rank}.ended").write_text("once")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
follow_launcher()
(folder / f"{rank}.ready").touch()
time.sleep(60)
"""
    script.write_text(START + waiting)
    start = "import pathlib, sys; from hfgen.processes import launcher; launcher.SCRIPT = pathlib.Path(sys.argv[1])\n"
    process = python(start + "launcher.launch([], launcher.Wanted(2))", script)
    while process.poll() is None and len(list(tmp_path.glob("*.ready"))) < 2:
        time.sleep(0.05)
    process.kill()
    out, err = process.communicate(timeout=20)  # the pipes close where both have ended
    assert [(tmp_path / f"{rank}.ended").read_text() for rank in (0, 1)] == ["once", "once"], out + err


def python(code, *words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code, *[str(word) for word in words]]
    return subprocess.Popen(command, env=quiet_environment(), start_new_session=True, **pipes)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "accelerators", "message"),
    [
        (Wanted(2, "singel"), 0, "neither a file nor one of fsdp2, multi_gpu, single. Did you mean 'single'?"),
        (Wanted(2, "missing.yaml"), 0, "'missing.yaml' is neither a file"),
        (Wanted(2, "broken.yaml"), 0, "broken.yaml is not a configuration of Accelerate"),
        (Wanted(2, "list.yaml"), 0, "list.yaml is not a configuration of Accelerate"),
        (Wanted(2, "typo.yaml"), 0, "unknown keys"),
        (Wanted(2, "sagemaker.yaml"), 0, "SageMaker"),
        (Wanted(2, "deepspeed.yaml"), 0, "DEEPSPEED, which needs accelerators"),
        (Wanted(2, "single"), 0, "for one process, not 2"),
        (Wanted(None, "multi_gpu"), 0, "How many processes?"),
        (Wanted(3), 2, "3 processes were asked for, but this machine has 2 accelerators"),
        (Wanted(2, None, ["--gpu_idz", "0"]), 2, "go to `accelerate launch`: "),
        (Wanted(2, None, ["--num_machines", "2"]), 0, "torchrun on each of them"),
        (Wanted(2, None, ["--multi_gpu", "--use_deepspeed"]), 2, "accelerate launch: You can only use one of"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_starts(
    started, tmp_path, monkeypatch, wanted, accelerators, message
):
    monkeypatch.setattr(launcher, "_accelerators", lambda: accelerators)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("distributed_type: [")
    (tmp_path / "list.yaml").write_text("- FSDP")
    (tmp_path / "typo.yaml").write_text("distributed_type: MULTI_GPU\nnum_procesess: 2\n")
    (tmp_path / "deepspeed.yaml").write_text("distributed_type: DEEPSPEED\nnum_processes: 2\n")
    sagemaker = "compute_environment: AMAZON_SAGEMAKER\ndistributed_type: DATA_PARALLEL\n"
    sagemaker += "ec2_instance_type: x\niam_role_name: y\n"
    (tmp_path / "sagemaker.yaml").write_text(sagemaker + "mixed_precision: 'no'\nuse_cpu: false\ndebug: false\n")
    with pytest.raises(UsageError) as error:
        started(wanted=wanted)
    assert message in str(error.value)
    assert not list(tmp_path.glob("*.env"))


def test_two_launchers_that_were_told_two_numbers(started, monkeypatch):
    monkeypatch.setattr(
        "hfgen.processes.world._parent_command", lambda: ["accelerate", "launch", "--num_processes", "4"]
    )
    with pytest.raises(UsageError, match="was given 4 processes, and hfgen 2"):
        started()


# --- what a started process knows ------------------------------------------------------------------------------------


def test_the_precision_that_a_launcher_was_told(monkeypatch):
    assert launched_precision() is None
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert launched_precision() == "bf16"
    monkeypatch.setenv(PRECISION, "")  # hfgen's own launcher was told nothing, and accelerate says "no" for that
    assert launched_precision() is None


def test_the_command_that_resumes(tmp_path, monkeypatch):
    folder, latest = tmp_path / "my run", "--resume_from_checkpoint latest"
    plain = resume_command(TrainingArguments(), folder, 1)
    assert plain == f"hfgen train --config '{folder}/config.yaml' --output_dir '{folder}' {latest}"
    assert resume_command(TrainingArguments(), folder, 2) == f"{plain} --num_processes 2"
    secret = TrainingArguments(push_to_hub=True, hub_model_id="me/x", hub_token="hf_secret")
    assert resume_command(secret, folder, 1) == f"{plain} --push_to_hub --hub_model_id me/x"
    often = TrainingArguments(push_to_hub=True, hub_model_id="me/x", hub_strategy="every_validation")
    assert resume_command(often, folder, 1) == (
        f"{plain} --push_to_hub --hub_model_id me/x --hub_strategy every_validation"
    )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert resume_command(TrainingArguments(), folder, 2).startswith("accelerate launch ... ")
    monkeypatch.setenv(LAUNCHER, "1")
    monkeypatch.setenv(CONFIG, "fsdp2")
    assert resume_command(TrainingArguments(), folder, 2) == f"{plain} --num_processes 2 --accelerate_config fsdp2"
