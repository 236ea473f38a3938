"""The signals that ask a run to end: sent by a person, a batch system, or a terminal that closes."""

import signal

BY_HAND = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGBREAK")  # a second one ends at once
AS_A_WARNING = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # of schedulers and terminals; others may follow


def present(*names: str) -> list[int]:
    """Return the numbers of those signals that this system has, which on Windows are few."""
    return [number for name in names if (number := getattr(signal, name, None)) is not None]


def stopping() -> list[int]:
    """Return the signals that ask this process to end.

    SIGINT and SIGTERM always; others only where nobody has chosen otherwise: `nohup` ignores SIGHUP, and a library may
    have a use for SIGUSR1.
    """
    always = present("SIGINT", "SIGTERM")
    others = [number for number in present(*BY_HAND, *AS_A_WARNING) if number not in always]
    return always + [number for number in others if signal.getsignal(number) == signal.SIG_DFL]
