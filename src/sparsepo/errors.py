"""The one exception that is meant for a person, and how a command ends on it."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in the user's config, files or machine, told in one sentence: what, where, what is allowed.

    Command-line entry points print the sentence and exit with code 1; nobody sees a stack trace.
    """


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError or a full disk becomes one line on stderr and exit code 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: no space left on the disk ({error.filename or 'while writing'}); make room and run again")
