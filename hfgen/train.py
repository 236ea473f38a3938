"""What `accelerate launch hfgen/train.py` and `torchrun hfgen/train.py` run: `hfgen train` itself."""

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run as a file, Python puts this folder first on the path, where `hfgen` itself could not be found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main(argv: list[str] | None = None) -> None:
    """`hfgen train`, with its options."""
    from hfgen.cli import main as cli_main

    cli_main(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    main()
