"""Run `hfgen train`, for `accelerate launch hfgen/train.py` and `torchrun hfgen/train.py`.

Where no model is named, this file stands in for diffusers' script train_unconditional.py: its command runs with the
script's path changed. Such a recipe, with that script's defaults and options, is a plugin's
(hfgen/commands/script_options.py).
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run as a file, Python puts this folder first on the path, where `hfgen` itself could not be found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


STANDS_IN_FOR = "train_unconditional"


def main(argv: list[str] | None = None) -> None:
    """`hfgen train`, with its options."""
    from hfgen.processes.child import LAUNCHER, follow_launcher

    follow_launcher()
    from hfgen.commands.main import main as cli_main

    script = [] if LAUNCHER in os.environ else ["--stand_in", STANDS_IN_FOR]  # `hfgen train` has settled the model
    cli_main(["train", *script, *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    main()
