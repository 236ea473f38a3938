"""Names of models on the command line are looked at before anything slow is imported or a Hub is asked."""

from collections.abc import Iterable
from pathlib import Path

from hfgen.errors import UsageError, nearest


def check_target(target: str, known: Iterable[str] = ()) -> None:
    """Refuse a name without an owner where there is no such folder: each repository has an owner.

    Args:
        known: other names that the command takes.

    Raises:
        UsageError: there is neither; the message proposes a near name.
    """
    if "/" in target or Path(target).expanduser().exists():
        return
    here = [path.name for path in Path().iterdir() if path.is_dir()]
    runs = [str(path) for path in Path("runs").glob("*") if path.is_dir()]
    by_name = {**{Path(run).name: run for run in runs}, **{name: name for name in [*here, *known]}}
    near = nearest(target, by_name)
    hint = f" Did you mean {by_name[near]!r}?" if near else ""
    raise UsageError(
        f"There is no {'family, recipe, dataset or ' if known else ''}folder {target!r}.{hint}\n"
        "A model on the Hub is named with its owner: ORG/NAME."
    )
