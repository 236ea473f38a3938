"""How long the command line takes to answer: fresh processes, one command after the other.

    python benchmarks/startup.py

Each command runs in the Python of this environment, with its files in the system's cache.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from interleave import Goal, Variant, measure, options, record

SCRIPTS = Path(sys.executable).parent
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    'python -c "import hfgen"': [sys.executable, "-c", "import hfgen"],
    "hfgen --help": [str(SCRIPTS / "hfgen"), "--help"],
    "hfgen list": [str(SCRIPTS / "hfgen"), "list"],
    "hf --help": [str(SCRIPTS / "hf"), "--help"],
}
HEAVY = ("torch", "diffusers", "transformers", "numpy")
GOALS = [
    Goal("hfgen --help", "ms", 300),
    Goal("hfgen list", "ms", 300),
    Goal("hfgen --help", "ratio", 2.9, "hf --help"),
    Goal('python -c "import hfgen"', "ms", 100),
]


def processes(command: list[str]) -> Callable[[int], None]:
    """Runs so many of them, one after the other; none may reach for the network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def run(count: int) -> None:
        for _ in range(count):
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def heavy_imports(arguments: list[str]) -> str:
    """Which of the heavy libraries a call of hfgen imports."""
    code = (
        "import sys\nfrom hfgen.commands.main import main\n"
        f"try: main({arguments})\n"
        f"except SystemExit: print('\\n' + ' '.join(n for n in {HEAVY} if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1] or "none"


def main() -> None:
    arguments = options(__doc__, blocks=9, block_seconds=0.5).parse_args()
    facts = {
        "hfgen --help": {"heavy imports": heavy_imports(["--help"])},
        "hfgen list": {"heavy imports": heavy_imports(["list"])},
    }
    variants = [Variant(name, processes(words), facts.get(name, {})) for name, words in COMMANDS.items()]
    blocks = measure(variants, arguments)
    settings = {"ms": "per process; a block holds as many as fill half a second", "HF_HUB_OFFLINE": 1}
    record("startup", variants, blocks, arguments, ["hf --help"], GOALS, settings)


if __name__ == "__main__":
    main()
