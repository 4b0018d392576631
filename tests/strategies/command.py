"""The command line as a test calls it: in this process, without a shell."""

from moesim.cli import main


def run_command(monkeypatch, capsys, *words):
    """Exit status, stdout and stderr of `moesim` with these words."""
    monkeypatch.setattr("sys.argv", ["moesim", *map(str, words)])
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err
