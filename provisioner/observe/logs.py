"""Logs: one line each, to stderr, with time, level, thread and place."""

import logging
import sys


def set_up(verbosity: int) -> None:
    """Configure the process's logging: 0 tells what happens, 1 tells how."""
    level = logging.DEBUG if verbosity else logging.INFO
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
