"""Every topology sample, damaged in every way that files are: refused in a sentence, or imported; never anything else."""

from pathlib import Path

import pytest

from moesim.topology.import_files import import_topology
from moesim.topology.readers import readers
from tests.topology.readers.test_shared_samples import SAMPLES
from tests.trace.readers.damage import damaged, outcome

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("file", SAMPLES)
def test_damage_is_refused_in_a_sentence(shared_data: Path, tmp_path: Path, file: str) -> None:
    """With an accelerator named and a topology to fill it, so that what is read is also built."""
    content = (shared_data / "formats" / "topology" / file).read_bytes()
    refused = 0
    for bad in damaged(content, 18):
        (tmp_path / "x").write_bytes(bad)
        refused += outcome(
            lambda: import_topology([tmp_path / "x"], tmp_path / "c.yaml", accelerator="h100-sxm", fill="dgx-h100")
        )
    assert 0 < refused < 18


def test_every_reader_has_a_sample() -> None:
    """A new reader comes with one; our own files are tested beside the shapes."""
    assert {*(name for name, *_ in SAMPLES.values()), "moesim_yaml"} == set(readers.names())
