"""The program ``hokusai``, as the wheel carries it."""

from __future__ import annotations

import signal
import sys

from hokusai._native import command


def main() -> int:
    """Runs the command line of this process."""
    # Python would only take note of it, and look when the program is done.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return command(["hokusai", *sys.argv[1:]])
