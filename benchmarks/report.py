"""Results -> Markdown: results/<name>.md of each results/<name>.json, and the tables in README.md.

    python benchmarks/report.py

Numbers are never edited by hand: measure again, then run this.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PUBLISHED_NATS = [
    {
        "run": f"{name}, Burda et al. 2016, table 1",
        "epoch": "3,280",
        "negative_nats": nats,
        "standard_error": float("nan"),
        "num_importance_samples": 5000,
        "images": 10_000,
    }
    for name, nats in (("VAE", 86.76), ("IWAE, K = 50", 84.78))
]
PUBLISHED_BITS = [  # University of Amsterdam deep learning course, tutorial 11: 200 epochs on 50,000 images, K = 8
    ("couplings at one scale, uniform dequantization (UvA tutorial 11, 0.56 M parameters)", 1.078),
    ("the same, variational dequantization (0.63 M)", 1.043),
    ("multi-scale, variational dequantization (1.71 M)", 1.020),
    ("histogram of each pixel: what has learned nothing of shapes", 1.689),
]
PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_tables(results: Path, name: str) -> str:
    """Render results/<name>.json; return the name of the Markdown file beside it."""
    result = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    (results / f"{name}.md").write_text("\n".join(table(result)) + "\n", encoding="utf-8")
    return f"{name}.md"


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the Markdown of one result."""
    bases = list(result["ratios"])
    heads = ["variant", "ms", "fastest block", *(f"x {base} (by fastest)" for base in bases), *facts_of(result)]
    yield "| " + " | ".join([*heads, "clean/all blocks"]) + " |"
    yield "|" + "---|" * (len(heads) + 1)
    for name in result["variants"]:
        yield "| " + " | ".join(row(result, name, bases)) + " |"
    yield ""
    yield from map(goal_line, result["goals"])
    yield from footer(result)


def row(result: Mapping[str, Any], name: str, bases: list[str]) -> list[str]:
    variant = result["variants"][name]
    found = [result["ratios"][base][name] for base in bases]
    return [
        name,
        number(variant["median_ms"], "no result"),
        number(variant["min_ms"]),
        *(f"{number(ratio['median'])} ({number(ratio['min'])})" for ratio in found),
        *(str(variant["facts"].get(fact, "-")) for fact in facts_of(result)),
        f"{variant['clean']}/{variant['all']}",
    ]


def facts_of(result: Mapping[str, Any]) -> list[str]:
    """The names of the facts that any variant has, in order."""
    return list(dict.fromkeys(fact for v in result["variants"].values() for fact in v["facts"]))


def number(value: float | None, missing: str = "-") -> str:
    """Three digits, whole from 100 up."""
    if value is None:
        return missing
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def goal_line(goal: Mapping[str, Any]) -> str:
    against = f" against {goal['baseline']}" if goal["baseline"] else ""
    what = {"ratio": ">= {} x", "extra_ms": "<= {} ms more", "ms": "<= {} ms"}[goal["kind"]].format(goal["value"])
    verdict = {True: "met", False: "missed", None: "no result: too few clean blocks"}[goal["met"]]
    measured = "" if goal["measured"] is None else f" ({number(goal['measured'])})"
    return f"- Goal {goal['variant']}{against} {what}: **{verdict}**{measured}"


def footer(result: Mapping[str, Any]) -> Iterator[str]:
    env, settings = result["environment"], dict(result["settings"])
    if settings.pop("kept_dirty"):
        yield "- **Provisional**: blocks during which other processes were busy are counted too (`--keep_dirty`)."
    limit = settings.pop("dirty_above_cores")
    yield f"- A block is clean where other processes used at most {limit} cores. " + plain(settings)
    kinds = ", ".join(env["instruction_sets"])
    memory, threads = env["memory_gib"], settings.get("threads", env["threads"])
    yield f"- {env['processor']} ({kinds}), {env['cores']} cores, {threads} threads, {memory} GiB; {env['platform']}"
    if env.get("accelerators"):
        yield f"- {', '.join(env['accelerators'])}"
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    yield f"- Python {env['python']}, {versions}"
    yield f"- {result['date']}, commit {result['commit']}: `{result['command']}`"


def plain(settings: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in settings.items())


def write_likelihoods(results: Path) -> None:
    """results/vae_nats.md and results/flow_bits.md: measured bounds by epoch, beside published figures."""
    lines = json.loads((results / "vae_nats.json").read_text(encoding="utf-8"))
    rows = [
        f"| {line['run']} | {line['epoch']} | {line['negative_nats']:.2f} +- {line['standard_error']:.2f} "
        f"| {line['num_importance_samples']:,} | {line['images']:,} |"
        for line in [*lines, *PUBLISHED_NATS]
    ]
    head = ["| run | epochs | -ln p(x), nats | importance samples | test images |", "|---|---|---|---|---|"]
    (results / "vae_nats.md").write_text("\n".join([*head, *rows]).replace(" +- nan", "") + "\n", encoding="utf-8")
    if not (results / "flow_bits.json").is_file():
        return
    lines = json.loads((results / "flow_bits.json").read_text(encoding="utf-8"))
    rows = [
        f"| {line['run']} | {line['epoch']:g} | {line['training_seconds'] / 60:.0f} | {line['bits_per_dim']:.4f} "
        f"| {line['num_importance_samples']} | {line['images']:,} |"
        for line in lines
    ]
    rows += [f"| {name} | - | - | {bits:.3f} | - | 10,000 |" for name, bits in PUBLISHED_BITS]
    head = ["| run | epochs | minutes | bits per dimension | K | test images |", "|---|---|---|---|---|---|"]
    (results / "flow_bits.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


def write_diffusion(results: Path) -> None:
    """results/diffusion_likelihood.md and results/diffusion_steps.md: of a trained diffusion."""
    if (results / "diffusion_likelihood.json").is_file():
        lines = json.loads((results / "diffusion_likelihood.json").read_text(encoding="utf-8"))
        rows = [
            f"| {line['run']} | {line['epoch']:g} | {line['bits_per_dim']:.4f} +- {line['standard_error']:.4f} "
            f"| {line['kind']} | {line['method']} | {line['images']:,} |"
            for line in lines
        ]
        head = ["| run | epochs | bits per dimension | which is | how | test images |", "|---|---|---|---|---|---|"]
        (results / "diffusion_likelihood.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")
    if (results / "diffusion_steps.json").is_file():
        lines = json.loads((results / "diffusion_steps.json").read_text(encoding="utf-8"))
        rows = [
            f"| {line['num_inference_steps']:,} | {line['seconds']:.3g} | {line['reconstruction_mse']:.2g} |"
            for line in lines
        ]
        head = ["| DDIM steps | seconds for 16 images | reconstruction error per dimension |", "|---|---|---|"]
        (results / "diffusion_steps.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


def write_linear(results: Path) -> None:
    """results/flow_linear.md: what was trained beside the closed form."""
    lines = json.loads((results / "flow_linear.json").read_text(encoding="utf-8"))
    rows = [
        f"| {line['split']}, {line['images']:,} images | {line['bits_per_dim']:.4f} | {line['closed_form']:.4f} "
        f"| {line['steps']} of {line['batch_size']:,} |"
        for line in lines
    ]
    head = ["| images | trained, bits per dimension | closed form | steps |", "|---|---|---|---|"]
    (results / "flow_linear.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


def write_index(results: Path) -> None:
    """results/index.md: of each recorded comparison the command, and what was measured for its goals."""
    rows = []
    for file in sorted(results.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(result, dict) and result.get("goals") and not re.search(r"_run\d+$", file.stem):
            measured = "; ".join(map(measured_of, result["goals"]))
            rows.append(f"| {file.stem} | `{result['command']}` | {measured} | {result['date'][:10]} |")
    head = ["| result | command | measured | on |", "|---|---|---|---|"]
    (results / "index.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


def measured_of(goal: Mapping[str, Any]) -> str:
    """`hfgen fp32 1.19 x tutorial`, `hfgen --help 212 ms`."""
    unit = {"ratio": "x", "extra_ms": "ms more than", "ms": "ms"}[goal["kind"]]
    words = [goal["variant"], number(goal["measured"], "no result"), unit, goal["baseline"] or ""]
    return " ".join(words).strip()


def fill_readme() -> None:
    """Put each recorded table between its two marks in README.md."""
    readme, results = HERE / "README.md", HERE / "results"

    def recorded(match: re.Match[str]) -> str:
        file = results / f"{match[2]}.md"
        text = file.read_text(encoding="utf-8") if file.exists() else "Not recorded yet.\n"
        return match[1] + text + match[3]

    readme.write_text(PLACE.sub(recorded, readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    for file in sorted((HERE / "results").glob("*.json")):
        if file.stem not in ("vae_nats", "flow_bits", "flow_linear", "diffusion_likelihood", "diffusion_steps"):
            write_tables(file.parent, file.stem)
    write_likelihoods(HERE / "results")
    write_linear(HERE / "results")
    write_diffusion(HERE / "results")
    write_index(HERE / "results")
    fill_readme()
