"""The command line: one file per command, thin: parse, call one function, print.

stdout is the answer, stderr the talk. Exit status 0 done, 1 our bug, 2 the user's input, 3 no feasible plan.
"""

import os
import sys

from moesim.cli.app import app
from moesim.errors import MoesimError


def main() -> None:
    """Run the command of sys.argv; expected failures are one sentence on stderr, anything else keeps its traceback."""
    try:
        app()
    except MoesimError as error:
        print(f"moesim: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except BrokenPipeError:
        # The reader of our output left (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
