"""From files that clusters already have to one topology file: recognised by content, merged, what is missing named."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from moesim.cluster import TorusLayout
from moesim.errors import InputError
from moesim.provenance import data_folder
from moesim.topology.claims import Claims, Said
from moesim.topology.describe import describe_topology
from moesim.topology.draft import Draft, draft_topology
from moesim.topology.foreign_text import read_text
from moesim.topology.grid import AXES
from moesim.topology.load import list_topologies, load_topology
from moesim.topology.partial import describe_partial
from moesim.topology.readers import readers, recognisers
from moesim.topology.readers.moesim_yaml import read as read_own
from moesim.yaml_file import read_yaml

_SLICE = re.compile(r"(?:tpu-?)?(?:v\d{1,2}[a-z]{0,8}|7x)[-: ][\dx]{1,40}(?:_\w{1,20})?", re.ASCII)


def import_topology(
    files: Sequence[str | Path], out: str | Path, *, accelerator: str | None = None, fill: str | None = None
) -> dict[str, Any]:
    """Write what `files` say together to the topology file `out`; plain data on it, with `missing` keys and `notes`.

    A "file" may be the name of a TPU slice. `accelerator` names the devices where no file does; `fill` is a shipped
    topology whose figures stand in, as assumptions, for what no file says. Raises InputError, and then writes nothing.
    """
    out = Path(out)
    if not files:
        raise InputError("name at least one file to import")
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {out} must end in .yaml, as a scenario names it")
    slices = [str(file) for file in files if _SLICE.fullmatch(str(file)) and not Path(file).exists()]
    if slices and len(files) > 1:
        raise InputError(f"{slices[0]} is a whole TPU slice; import it alone")
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", out.stem).strip("-._+")[:80] or "cluster"
    draft = _slice_draft(slices[0], name) if slices else _draft([Path(file) for file in files], name, accelerator, fill)
    _write(draft, out)
    answer = describe_partial(out) or {**describe_topology(load_topology(out)), "missing": []}
    return {"out": str(out), **answer, "notes": list(draft.notes)}


def recognised_format(path: Path) -> str:
    """Name of the first reader (by name) that recognises the content of `path`; InputError when none does."""
    text = read_text(path)
    for name in recognisers.names():
        if recognisers.get(name)(text):
            return name
    raise InputError(f"{path} is none of the topology formats {', '.join(recognisers.names())}")


def _draft(files: Sequence[Path], name: str, accelerator: str | None, fill: str | None) -> Draft:
    claims: list[Claims] = []
    for file in files:
        if not file.is_file():
            raise InputError(f"there is no file {file}, and it is no name of a TPU slice such as v4-256")
        claims.append(readers.get(recognised_format(file))(file))
    if accelerator is not None:
        asked = {"accelerator": Said(accelerator, "assumed", "asked for")}
        claims[0] = replace(claims[0], facts={**claims[0].facts, **asked})
    if fill is None:
        return draft_topology(claims, name)
    if fill not in list_topologies():
        load_topology(fill)  # says which names there are
    return draft_topology(claims, name, read_own(data_folder("topologies") / f"{fill}.yaml"))


def _slice_draft(text: str, name: str) -> Draft:
    """The shipped file of a TPU with the lengths of one slice."""
    spelled = re.sub(r"[ :-](?=\d+x)", ":", text)
    layout = load_topology(spelled).layout
    assert isinstance(layout, TorusLayout)
    version = re.match(r"(?:tpu-?)?(v\d{1,2}[a-z]{0,8}|7x)", spelled)
    assert version is not None
    known = {"v5litepod": "v5e", "7x": "v7", "v7x": "v7"}
    data = read_yaml(data_folder("topologies") / f"tpu-{known.get(version[1], version[1])}-pod.yaml")
    for axis, length in zip(AXES, layout.lengths, strict=False):
        data[axis]["chips"] = {"value": length, "kind": "derived", "source": f"the slice's name {text}"}
    return Draft({**data, "name": name}, (), ())


def _write(draft: Draft, out: Path) -> None:
    data = dict(draft.data)
    try:
        if draft.graph is not None:
            graph = out.with_suffix(".graph.json")
            graph.write_text(json.dumps(draft.graph, indent=1) + "\n")
            data["file"] = graph.name
        out.write_text(yaml.safe_dump(data, sort_keys=False, width=120, allow_unicode=True))
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror or error}); choose another output path") from None
