"""The command line `hfgen VERB`: its verbs, one file each in `hfgen/commands`, and its errors and exit codes."""

import io
import os
import sys
import traceback

import click

from hfgen import __version__
from hfgen.commands import card, compare, convert, evaluate, info, init, list_, plugins, push, sample, train
from hfgen.errors import CheckError, HFGenError, Interrupted, PluginError, UsageError
from hfgen.processes.child import leave_error, tell_error
from hfgen.settings.arguments import canonical
from hfgen.terminal import keep_output
from hfgen.tokens import without_secrets

AGREED = (UsageError, PluginError, CheckError, Interrupted)


# Dashes and underscores are the same; the names of transformers' TrainingArguments are accepted.
@click.group(context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": canonical})
@click.version_option(__version__, prog_name="hfgen")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (also: HFGEN_DEBUG=1).")
def cli(debug: bool) -> None:
    """Train, sample and share generative models: GANs, VAEs, flows, diffusion, and what plugins add.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 a check did not hold, for example a loss is NaN; 128 and the
    number of the signal that stopped it, after a checkpoint: 130 of Ctrl-C, 143 of SIGTERM.
    """
    if debug:
        os.environ["HFGEN_DEBUG"] = "1"


for verb in (train, init, sample, evaluate, compare, convert, card, push, list_, info, plugins):
    cli.add_command(verb.command)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 a check did not hold, 128 + a signal."""
    keep_output()
    try:
        code = cli.main(args=argv, prog_name="hfgen", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        if _rank() == 0 and not leave_error(error.format_message(), error.exit_code, agreed=True):
            _show(error)
        code = error.exit_code
    except HFGenError as error:
        told = isinstance(error, Interrupted) and error.reported
        code = _report(str(error), error.exit_code, isinstance(error, AGREED), told)
    except (KeyboardInterrupt, click.Abort):
        code = _report("Stopped; nothing further was saved.", 130)
    except Exception as error:
        text = (
            f"{type(error).__name__}: {error}\nThis error is unexpected; --debug before the verb shows the traceback."
        )
        code = _report(text, 1)
    sys.exit(code if isinstance(code, int) else 0)


def _show(error: click.ClickException) -> None:
    shown = io.StringIO()
    error.show(shown)
    click.echo(without_secrets(shown.getvalue()), err=True, nl=False)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _report(message: str, code: int, agreed: bool = False, told: bool = False) -> int:
    if os.environ.get("HFGEN_DEBUG", "0") not in ("", "0"):
        print(without_secrets(traceback.format_exc()), file=sys.stderr, end="")
    if not told:
        tell_error(message, code, agreed)
    return code
