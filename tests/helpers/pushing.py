"""A process that runs `hfgen` commands with a stand-in for the Hub, a small training that pushes, and what it sent."""

from hub_child import HubChild
from hub_server import TOKEN

# Runs command lines of `hfgen`, one after the other, in one process; waits between tries are short.
CHILD = """
import contextlib, io, json, warnings
warnings.simplefilter("default")
from hfgen import HFGenPipeline
from hfgen.commands import main as cli
from hfgen.hub import client, upload
from hfgen.errors import HFGenError

client.WAITS = upload.WAITS = (0.01,) * 4

def answer(words):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if words[0] == "push_to_hub":
                pushed = HFGenPipeline.from_pretrained(words[1]).push_to_hub(words[2], **json.loads(words[3]))
                print(pushed.commit_url)
            elif words[0] == "pixels":
                pipeline = HFGenPipeline.from_pretrained(words[1], **json.loads(words[2]))
                print(json.dumps(pipeline(seeds=[0, 1], output_type="np").images.ravel().tolist()))
            else:
                cli.main(words)
        except SystemExit as stop:
            code = stop.code
        except HFGenError as error:
            code = error.exit_code
            print(error, file=err)
    return {"out": out.getvalue(), "err": err.getvalue(), "code": code}
"""


class Hfgen(HubChild):
    """`hfgen` in a process whose Hub is the stand-in; one process serves all calls."""

    def __call__(self, *words, code=0):
        done = self.ask([str(word) for word in words])
        assert done["code"] == code, done
        assert "Traceback" not in done["err"]
        assert len(done["err"].splitlines()) <= 6 or words[0] == "train", done["err"]
        assert TOKEN not in done["out"] + done["err"]
        return done


def training(data, folder, *options):
    """The command line of a tiny training that pushes its run."""
    tiny = ["--generator.base_channels", "4", "--generator.latent_dim", "6", "--discriminator.base_channels", "4"]
    settings = ["--dataset_name", data, "--output_dir", folder, "--max_train_steps", "2", "--train_batch_size", "4"]
    return ["train", "dcgan", *tiny, *settings, "--num_validation_images", "4", "--push_to_hub", *options]


def copied(folder, target):
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in ("checkpoints", "logs"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(path.read_bytes())
    return target


def snapshot(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commit_requests(done):
    return [request for request in done["requests"] if request.method == "POST" and "/commit/" in request.path]
