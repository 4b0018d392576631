"""`python -m calibrate run|import|fit`: each command is a module with `add_arguments` and `main`, imported when asked for.

`run` needs torch and numpy and nothing of moesim, so that a copy of this folder works on a GPU node.
"""

import argparse
import importlib
import sys

_COMMANDS = {
    "run": ("calibrate.run", "measure this machine"),
    "import": ("calibrate.import_logs", "read logs and tables of others (needs moesim installed)"),
    "fit": ("calibrate.fit", "fit a profile to measurements (needs moesim installed)"),
}


def main(arguments: list[str]) -> int:
    """Run one command; its exit status."""
    if not arguments or arguments[0] not in _COMMANDS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        lines = [
            "usage: python -m calibrate COMMAND ...",
            *(f"  {name:8}{what}" for name, (_, what) in _COMMANDS.items()),
        ]
        print("\n".join(lines), file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    name = arguments[0]
    try:
        command = importlib.import_module(_COMMANDS[name][0])
    except ModuleNotFoundError as error:
        print(f"python -m calibrate {name} needs {error.name}, which is not installed here", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog=f"python -m calibrate {name}", description=_COMMANDS[name][1])
    command.add_arguments(parser)
    return int(command.main(parser.parse_args(arguments[1:])))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
