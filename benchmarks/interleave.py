"""Variants of the same work, timed side by side: block by block in turn, so that what slows the machine slows all.

A block during which other processes used more than DIRTY cores does not count. A ratio is the baseline's time over the
variant's: above 1, the variant is faster. Times are per unit (a step, a process), of which a block holds several.
"""

import argparse
import datetime
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from report import write_tables

from hfgen.run_folder import environment

DIRTY = 0.12  # cores; a system in rest uses less
FEWEST = 5  # clean blocks that a result needs
RESULTS = Path(__file__).parent / "results"


@dataclass
class Variant:
    """One way of doing the work.

    Attributes:
        run: does so many units of it.
        facts: what else is worth recording of this variant.
        images: in one unit, where a speed in images per second is wanted.
    """

    name: str
    run: Callable[[int], Any]
    facts: dict[str, Any] = field(default_factory=dict)
    images: int | None = None


@dataclass
class Block:
    """`ms` per unit, and CPU time of it; `others` is how many cores other processes used meanwhile."""

    ms: float
    cpu_ms: float
    units: int
    others: float
    clean: bool


@dataclass
class Goal:
    """`kind` is "ratio" (of medians, at least), "extra_ms" (over the baseline, at most) or "ms" (at most)."""

    variant: str
    kind: str
    value: float
    baseline: str | None = None


# --- options ----------------------------------------------------------------------------------------------------


def options(description: str | None, blocks: int = 9, block_seconds: float = 1.0) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--blocks", type=int, default=blocks, help="Clean blocks of each variant.")
    parser.add_argument("--max_rounds", type=int, help="Give up after so many rounds (default: 4 x blocks).")
    parser.add_argument("--block_seconds", type=float, default=block_seconds, help="Least length of a block.")
    parser.add_argument("--keep_dirty", action="store_true", help="Count dirty blocks too, and say so.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="Folder of the results.")
    return parser


# --- measuring --------------------------------------------------------------------------------------------------


def measure(variants: Sequence[Variant], arguments: argparse.Namespace) -> dict[str, list[Block]]:
    """Rounds of one block of each variant, until each has enough blocks that count."""
    units = {v.name: units_of_a_block(v, arguments.block_seconds) for v in variants}
    blocks: dict[str, list[Block]] = {v.name: [] for v in variants}
    for number in range(arguments.max_rounds or 4 * arguments.blocks):
        for variant in variants:
            blocks[variant.name].append(timed_block(variant, units[variant.name]))
        counted = {name: sum(b.clean or arguments.keep_dirty for b in blocks[name]) for name in blocks}
        say_round(number, blocks, counted)
        if min(counted.values()) >= arguments.blocks:
            break
    return blocks


def units_of_a_block(variant: Variant, seconds: float) -> int:
    """As many as last so long; the two calls are the warm-up."""
    variant.run(2)
    synchronize()
    start = time.perf_counter()
    variant.run(2)
    synchronize()
    return max(1, round(2 * seconds / (time.perf_counter() - start)))


def timed_block(variant: Variant, units: int) -> Block:
    """One block, and how busy the rest of the machine was."""
    busy, cpu, start = system_seconds(), own_seconds(), time.perf_counter()
    variant.run(units)
    synchronize()
    elapsed, cpu, busy = time.perf_counter() - start, own_seconds() - cpu, system_seconds() - busy
    others = max(0.0, busy - cpu) / elapsed
    ms, cpu_ms = (round(1000 * seconds / units, 4) for seconds in (elapsed, cpu))
    return Block(ms, cpu_ms, units, round(others, 3), others <= DIRTY)


def synchronize() -> None:
    """Wait until an accelerator has done all that it was given; not all benchmarks import torch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.synchronize()


def system_seconds() -> float:
    """CPU seconds that all processes used; time stolen by the host's other machines is theirs."""
    t = psutil.cpu_times()
    return t.user + t.nice + t.system + sum(getattr(t, name, 0.0) for name in ("irq", "softirq", "steal"))


def own_seconds() -> float:
    """CPU seconds of this process, of its children that have ended, and of those that live."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(u.ru_utime + u.ru_stime for u in usages) + sum(t.user + t.system for t in living)


def say_round(number: int, blocks: Mapping[str, list[Block]], counted: Mapping[str, int]) -> None:
    latest = "  ".join(f"{name} {b[-1].ms:.3g}{'' if b[-1].clean else '*'}" for name, b in blocks.items())
    print(f"round {number + 1}, ms: {latest}  (counted: {min(counted.values())})", file=sys.stderr, flush=True)


# --- results ----------------------------------------------------------------------------------------------------


def record(
    name: str,
    variants: Sequence[Variant],
    blocks: Mapping[str, list[Block]],
    arguments: argparse.Namespace,
    baselines: Sequence[str],
    goals: Sequence[Goal] = (),
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write results/<name>.json, and the table that is made of it."""
    rows = {v.name: summary(v, blocks[v.name], arguments.keep_dirty) for v in variants}
    result = {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": commit(),
        "command": " ".join(
            ["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(public, without_results(sys.argv[1:]))]
        ),
        "settings": {"dirty_above_cores": DIRTY, "kept_dirty": arguments.keep_dirty, **(settings or {})},
        "environment": {**environment(), **machine()},
        "variants": rows,
        "ratios": {baseline: ratios(rows, baseline) for baseline in baselines},
        "goals": [asdict(goal) | reached(goal, rows) for goal in goals],
        "blocks": {variant: [asdict(block) for block in listed] for variant, listed in blocks.items()},
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print((arguments.results / write_tables(arguments.results, name)).read_text(encoding="utf-8"))


def summary(variant: Variant, blocks: Sequence[Block], keep_dirty: bool) -> dict[str, Any]:
    """Median and minimum of the blocks that count; None where they are too few."""
    counted = [b.ms for b in blocks if b.clean or keep_dirty]
    median = statistics.median(counted) if len(counted) >= FEWEST else None
    speed = {"images/s": round(1000 * variant.images / median)} if variant.images and median else {}
    return {
        "clean": sum(b.clean for b in blocks),
        "all": len(blocks),
        "median_ms": median,
        "min_ms": min(counted) if median else None,
        "facts": {**speed, **variant.facts},
    }


def ratios(rows: Mapping[str, Any], baseline: str) -> dict[str, dict[str, float | None]]:
    """Of each variant: the baseline's median over its median, and likewise of the minima."""
    base = rows[baseline]
    return {
        name: {of: quotient(base[f"{of}_ms"], row[f"{of}_ms"]) for of in ("median", "min")}
        for name, row in rows.items()
    }


def quotient(baseline: float | None, value: float | None) -> float | None:
    return round(baseline / value, 3) if baseline and value else None


def reached(goal: Goal, rows: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured for a goal, and whether that meets it; None where there is no result."""
    value = rows[goal.variant]["median_ms"]
    base = rows[goal.baseline]["median_ms"] if goal.baseline else None
    if value is None or (goal.baseline and base is None):
        return {"measured": None, "met": None}
    measured = {"ratio": lambda: base / value, "extra_ms": lambda: value - base, "ms": lambda: value}[goal.kind]()
    met = measured >= goal.value if goal.kind == "ratio" else measured <= goal.value
    return {"measured": round(measured, 4), "met": met}


def commit() -> str | None:
    """The commit that was measured; `+` where the packages differ from it."""
    git = ["git", "-C", str(Path(__file__).parent.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "hfgen", "plugins"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") or None


def public(word: str) -> str:
    """Of a path of this machine its last name."""
    return Path(word).name if Path(word).is_absolute() else word


def without_results(words: Sequence[str]) -> list[str]:
    """The command line without where its results went."""
    at = words.index("--results") if "--results" in words else len(words)
    return [*words[:at], *words[at + 2 :]]


def machine() -> dict[str, Any]:
    """What decides speed and `environment()` does not tell."""
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
    flags: set[str] = set()
    if Path("/proc/cpuinfo").exists():
        flags = set(Path("/proc/cpuinfo").read_text().split())
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"instruction_sets": [name for name in known if name in flags], "memory_gib": memory}
