"""Keeps from the terminal what Orbax says of an error in every thread, before it raises the error.

A full disk would else be told in hundreds of lines of tracebacks, above and below the one that says
which folder is meant and what to do.
"""

import logging as stdlib_logging
import os
import sys
from collections.abc import Callable
from typing import Any

from absl import logging


def quiet_orbax() -> None:
    """Drops these messages from now on."""
    # Adding the same filter again changes nothing.
    logging.get_absl_logger().addFilter(_is_no_error_of_orbax)
    if sys.unraisablehook is not _report_unraisable:
        _hooks.append(sys.unraisablehook)
        sys.unraisablehook = _report_unraisable


# The hook of the program, which `_report_unraisable` calls.
_hooks: list[Callable[[Any], Any]] = []


def _is_no_error_of_orbax(record: stdlib_logging.LogRecord) -> bool:
    is_orbax = f'{os.sep}orbax{os.sep}' in record.pathname
    return not (is_orbax and record.levelno >= stdlib_logging.ERROR)


def _report_unraisable(unraisable: Any) -> None:
    # Arrays whose write ends after the first error find the loop of the save closed.
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'):
        _hooks[-1](unraisable)
