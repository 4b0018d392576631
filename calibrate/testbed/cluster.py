"""EmulatedCluster: the processes of an emulated cluster, each in a network namespace of its own, and their network.

Namespaces have no names: one lives as long as the processes in it. Every process is told by the kernel to die with this
one (PR_SET_PDEATHSIG), so that nothing is left behind whatever ends it, SIGKILL included.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from calibrate.testbed.wiring import (
    Wiring,
    fabric_commands,
    fabric_shaping,
    rank_commands,
    rank_shaping,
    socket_settings,
)

_PROGRAMS = ("ip", "tc", "unshare", "nsenter")
_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 20.0


class CannotEmulateError(RuntimeError):
    """This machine cannot hold an emulated cluster; the message says what it lacks."""


def missing() -> str | None:
    """What this machine lacks for an emulated cluster, in one sentence; None when it has everything."""
    if not sys.platform.startswith("linux"):
        return f"an emulated cluster needs Linux network namespaces; this is {sys.platform}"
    absent = [program for program in _PROGRAMS if shutil.which(program, path=_search_path()) is None]
    if absent:
        return f"an emulated cluster needs {', '.join(absent)} (Debian packages iproute2 and util-linux)"
    if os.geteuid() != 0:
        return "an emulated cluster needs root, to make network namespaces and shape links"
    try:
        _run(
            ["unshare", "--net", "sh", "-c", "ip link add trial type bridge && tc qdisc add dev lo root tbf " + _TRIAL]
        )
    except CannotEmulateError as error:
        return f"this kernel refuses a network namespace, a bridge or tc tbf: {error}"
    return None


_TRIAL = "rate 1mbit burst 32kb limit 1mb"


class EmulatedCluster:
    """Life: made; on entry the processes start, each told its rank by `command`, and their network is built; on exit all end.

    A process must read one line from its standard input before it touches the network.
    """

    def __init__(self, wiring: Wiring, command: list[str], log: Path) -> None:
        """`command` is run once per rank with the rank appended; what it prints goes to the file `log`."""
        self.wiring, self.command, self.log = wiring, command, log
        self.ranks: list[subprocess.Popen[bytes]] = []
        self._fabric: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        lack = missing()
        if lack is not None:
            raise CannotEmulateError(lack)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, and with them the namespaces, bridges and links; safe to call twice."""
        started = [*self.ranks, *([self._fabric] if self._fabric else [])]
        for process in started:
            if process.poll() is None:
                process.kill()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        self.ranks, self._fabric = [], None

    def check_alive(self) -> None:
        """Raise RuntimeError when a rank has ended, with the end of what it printed."""
        for rank, process in enumerate(self.ranks):
            if process.poll() is not None:
                tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else ""
                raise RuntimeError(f"rank {rank} ended with status {process.returncode}:\n{tail}")

    def _start(self) -> None:
        self._fabric = self._spawn(["sleep", "infinity"])
        for rank in range(self.wiring.ranks):
            self.ranks.append(self._spawn([*self.command, str(rank)]))
        pids = [process.pid for process in self.ranks]
        for pid in (self._fabric.pid, *pids):
            _wait_for_namespace(pid)
        _batch(self._fabric.pid, "ip", fabric_commands(self.wiring, pids))
        _batch(self._fabric.pid, "tc", fabric_shaping(self.wiring))
        for rank, pid in enumerate(pids):
            _batch(pid, "ip", rank_commands(self.wiring, rank))
            _batch(pid, "tc", rank_shaping(self.wiring))
            _set_sockets(pid)
        for process in self.ranks:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                ["unshare", "--net", "--", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": _search_path()},
                preexec_fn=_die_with_parent,  # only a system call: safe between fork and exec
            )


def _search_path() -> str:
    """PATH with the folders where Debian keeps ip and tc."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def _die_with_parent() -> None:
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_namespace(pid: int) -> None:
    """Return when process `pid` has left this process's network namespace."""
    own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + _PATIENCE_S
    while Path(f"/proc/{pid}/ns/net").readlink() == own:
        if time.monotonic() > deadline:
            raise CannotEmulateError(f"process {pid} got no network namespace within {_PATIENCE_S:g} s")
        time.sleep(0.005)


def _set_sockets(pid: int) -> None:
    lines = [f"echo '{value}' > /proc/sys/net/ipv4/{name}" for name, value in socket_settings().items()]
    _run(["nsenter", f"--net=/proc/{pid}/ns/net", "sh", "-ec", "\n".join(lines)])


def _batch(pid: int, program: str, lines: list[str]) -> None:
    """Run lines of `ip` or `tc` in the namespace of process `pid`."""
    _run(["nsenter", f"--net=/proc/{pid}/ns/net", program, "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], text: str = "") -> None:
    environment = {**os.environ, "PATH": _search_path()}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise CannotEmulateError(f"{' '.join(command[-3:])[:200]}: {done.stderr.strip()[:500] or done.returncode}")
