"""Waiting for something that another thread, process or machine does."""

import time

# A fault makes a test wait for ever; a machine that does much else makes it wait a minute.
PATIENCE_S = 180


def wait_until(condition, what: str) -> None:
    """Poll until a condition holds.

    Raises:
        TimeoutError: it did not within `PATIENCE_S` seconds; says `what` was waited for.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S} s for {what}")
        time.sleep(0.02)
