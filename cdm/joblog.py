"""What a job tells: lines in its log file and on the terminal, and errors without tracebacks."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdm.errors import CDMError


@contextmanager
def job_log(path: str) -> Iterator[Callable[[str], None]]:
    """Yield `log(line)`; a `CDMError` ends the process with its message and exit status 1.

    Args:
        path: log file, started anew; each line carries the time of day.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:

        def log(line: str) -> None:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=file, flush=True)
            print(line, file=sys.stderr, flush=True)

        try:
            yield log
        except CDMError as error:
            log(f"error: {error}")
            sys.exit(1)
        except BaseException:
            traceback.print_exc(file=file)
            raise
