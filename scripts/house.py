"""Print the figures of the tree: lines, functions, the widest folder, circles and upward imports.

    python scripts/house.py [FOLDER ...]

The default folders are hfgen and plugins; `tests/whole/test_layers.py` holds the floors that imports are judged by.
"""

import ast
import sys
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "whole")]


def lengths(files: list[Path]) -> list[int]:
    """Lines of each function, nested ones too, from `def` to its last line."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [int(function.end_lineno or 0) - function.lineno + 1 for function in functions]


def describe(folder: Path) -> str:
    files = sorted(folder.rglob("*.py"))
    lines = [len(file.read_text(encoding="utf-8").splitlines()) for file in files]
    found = lengths(files)
    functions = f"median {median(found):.0f}, p90 {quantiles(found, n=10)[-1]:.0f}, max {max(found)}"
    widest = max({file.parent for file in files}, key=lambda place: len(list(place.glob("*.py"))))
    return (
        f"{folder.name}: {len(files)} files, {sum(lines):,} lines, longest file {max(lines)}; "
        f"{len(found):,} functions: {functions}; "
        f"widest folder {widest.relative_to(ROOT).as_posix()} with {len(list(widest.glob('*.py')))} files"
    )


def main(folders: list[str]) -> None:
    for name in folders or ["hfgen", "plugins"]:
        print(describe(ROOT / name))
    from test_layers import circle, upward

    print(f"imports that do not go down: {len(upward())}; circle of modules: {circle() or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
