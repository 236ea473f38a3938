"""The processor cores that this process may use; what the system counts leaves a container's quota out."""

import functools
import math
import os
from pathlib import Path

ROOT = Path("/")


@functools.cache
def usable_cores() -> int:
    """Return how many cores this process may keep busy: those it may run on, or its quota if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the cores' worth of time that control groups leave this process, the least of all around it; or None.

    Of version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return None
    groups = [line.split(":", 2)[1:] for line in lines if line.count(":") >= 2]
    mounts = root / "sys/fs/cgroup"
    found = []
    for controllers, path in groups:
        if controllers == "":
            found += [_quota_2(folder) for folder in _around(mounts, path)]
        elif "cpu" in controllers.split(","):
            found += [_quota_1(folder) for name in ("cpu", controllers) for folder in _around(mounts / name, path)]
    return min((quota for quota in found if quota is not None), default=None)


def _around(mount: Path, path: str) -> list[Path]:
    """Return the folders of a group and of those around it; in a container its path may lie outside of the mount."""
    inside = mount / path.lstrip("/")
    return [mount] if ".." in path else [mount, *(p for p in (inside, *inside.parents) if mount in p.parents)]


def _quota_2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
