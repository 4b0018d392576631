"""The emulated cluster itself: needs root and iproute2, and says so where they are not."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from calibrate.testbed import cluster
from calibrate.testbed.__main__ import main
from calibrate.testbed.cases import LayerShape, drawn_routing
from calibrate.testbed.fit import nominal_profile
from calibrate.testbed.predict import Predictor
from calibrate.testbed.probes import pair_matrix
from calibrate.testbed.session import Session, remove_orphans
from calibrate.testbed.wiring import Wiring
from moesim.placement import device_of_slot
from moesim.traffic import PlacedTraffic, count_traffic

LACK = cluster.missing()
needs_root = pytest.mark.skipif(LACK is not None, reason=str(LACK))
REPOSITORY = Path(__file__).resolve().parents[3]


def _namespaces() -> set[str]:
    """Network namespaces that some process is in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(path.readlink()))
        except OSError:
            continue  # ended meanwhile
    return found


def test_without_iproute2_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the programs and the Debian packages."""
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    assert "iproute2" in str(cluster.missing())


def test_without_root_the_command_says_so_and_ends_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started; the word is on stderr."""
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: "/bin/true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert 2 == main(["--nodes", "2"])
    assert "needs root" in capsys.readouterr().err


def test_folders_of_killed_sessions_are_removed_and_those_of_living_ones_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner's process id is in the name: no such process, no folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    orphan, mine = tmp_path / "moesim-testbed-99999999-a", tmp_path / f"moesim-testbed-{os.getpid()}-b"
    orphan.mkdir()
    mine.mkdir()
    remove_orphans()
    assert [mine] == list(tmp_path.iterdir())


@needs_root
def test_a_killed_program_leaves_no_process_and_no_namespace(tmp_path: Path) -> None:
    """SIGKILL of the program that holds a cluster: the kernel ends the ranks, and their namespaces go with them."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from calibrate.testbed.cluster import EmulatedCluster\n"
        "from calibrate.testbed.wiring import Wiring\n"
        "command = ['sh', '-c', 'read line; exec sleep 100']\n"
        f"with EmulatedCluster(Wiring(nodes=2, ranks_per_node=1), command, Path({str(tmp_path / 'log')!r})) as made:\n"
        "    print(*[process.pid for process in made.ranks], flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as held:
        assert held.stdout is not None
        pids = [int(word) for word in held.stdout.readline().split()]
        inside = {str(Path(f"/proc/{pid}/ns/net").readlink()) for pid in pids}
        assert 2 == len(inside & _namespaces())
        held.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while inside & _namespaces() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set() == inside & _namespaces()


@needs_root
@pytest.mark.slow
def test_a_small_cluster_computes_right_and_near_the_predicted_time() -> None:
    """2 x 2 ranks: uneven bytes arrive, both algorithms agree, and nominal rates predict the time within a loose band."""
    wiring = Wiring(nodes=2, ranks_per_node=2, rank_bytes_per_s=2.5e6, uplink_bytes_per_s=2.5e6)
    shape = LayerShape(width=64, hidden=8, tokens_per_rank=256, chunk_tokens=64)
    routing = drawn_routing(wiring, shape.tokens_per_rank, experts=8, top_k=2, seed=1)
    counts = count_traffic(
        routing.slots_TK.astype(np.int32),
        routing.source_T.astype(np.int32),
        routing.device_of_slot_P.astype(np.int32),
        wiring.ranks,
        wiring.ranks_per_node,
    )
    load_P = np.bincount(routing.slots_TK.ravel(), minlength=8)
    predictor = Predictor(wiring=wiring, shape=shape, profile=nominal_profile(wiring), experts=8, top_k=2)
    before = _namespaces()
    outputs = {}
    with Session(wiring) as session:
        exchanged_s = session.exchange_s(pair_matrix(wiring, "all", 100_000), 2).min()
        assert 0.9 * 400_000 / 2.5e6 <= exchanged_s <= 4.0 * 400_000 / 2.5e6
        for algorithm in ("direct", "node_dedup"):
            header = {
                "algorithm": algorithm,
                "width": shape.width,
                "hidden": shape.hidden,
                "repeats": 2,
                "chunk_tokens": shape.chunk_tokens,
                "output": True,
            }
            answers = session.layer(routing, np.arange(8), header)
            outputs[algorithm] = np.concatenate([answer["output"] for answer in answers])
            fastest_s = np.max([answer["end_s"] for answer in answers], axis=0)[:, -1].min()
            predicted = predictor.predict(PlacedTraffic(counts, load_P), algorithm, device_of_slot(8, wiring.ranks))
            assert 0.9 * predicted.layer_s <= fastest_s <= 4.0 * predicted.layer_s
    assert np.allclose(outputs["direct"], outputs["node_dedup"], atol=1e-5)
    assert set() == _namespaces() - before
