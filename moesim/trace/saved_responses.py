"""Answers of inference servers saved to files, and the base64 texts under `routed_experts` in them.

A file is one answer as JSON, a list of answers, or one answer a line (JSONL); a folder has such files.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.trace.pass_recording import Ids
from moesim.trace.source_files import files_in, head_of, json_lines, read_json

ANY_JSON = re.compile(r".*\.jsonl?")
NPY_MAGIC = b"\x93NUMPY"
_KEY = "routed_experts"
_DEEPEST = 12
_MOST_SCANNED = 2**26


def payloads(path: Path) -> Iterator[tuple[str, bytes]]:
    """(place, decoded bytes) of every `routed_experts` in the file or folder, in order; raises InputError."""
    found = False
    for file in files_in(path, ANY_JSON):
        for place, answer in _answers(file):
            for text in _texts(answer, 0):
                found = True
                yield place, _decoded(text, place)
    if not found:
        raise InputError(f"{path} has no {_KEY}; start the server with --enable-return-routed-experts and ask for them")


def first_payload(path: Path) -> bytes | None:
    """The start of the first `routed_experts` of a JSON file, without parsing it; None where there is none."""
    files = [file for file in files_in(path, ANY_JSON) if head_of(file, 64).lstrip()[:1] in (b"{", b"[")]
    for file in files[:1]:
        match = re.search(rb'"routed_experts"\s*:\s*"([A-Za-z0-9+/\\]{8})', head_of(file, _MOST_SCANNED))
        if match:
            return base64.b64decode(match[1]) if b"\\" not in match[1] else b""
    return None


def join_choices(choices: Sequence[Ids], source: str) -> tuple[NDArray[Any], list[int]]:
    """All answers' ids [T, R, K] one after the other as [R, T, K], and the tokens of each; empty ones left out."""
    choices = [ids_TRK for ids_TRK in choices if len(ids_TRK)]
    shapes = sorted({ids_TRK.shape[1:] for ids_TRK in choices})
    if len(shapes) != 1:
        raise InputError(
            f"{source} has answers of {len(shapes)} shapes [layers, top-k] {shapes[:4]}; expected one model's"
        )
    ids_TRK = np.concatenate(choices)
    return ids_TRK.transpose(1, 0, 2), [len(choice) for choice in choices]


def without_dense(ids_RTK: Ids, source: str, layer_of_row: tuple[int, ...], moe: Sequence[int] | None) -> list[int]:
    """The rows that are MoE layers: those of `moe` (the model's); without it those that are not 0 throughout.

    A dense layer is written as zeros, which is also expert 0; with more than one expert a token this can be told apart.
    Raises InputError where it cannot, or where a dense layer has routing.
    """
    is_zero_R = [not row.any() for row in ids_RTK]
    if moe is None:
        if ids_RTK.shape[2] == 1 and any(is_zero_R):
            row = is_zero_R.index(True)
            raise InputError(f"{source}: row {row} is a dense layer or always expert 0; --model tells which")
        return [row for row, is_zero in enumerate(is_zero_R) if not is_zero]
    for layer, is_zero in zip(layer_of_row, is_zero_R, strict=True):
        if layer not in moe and not is_zero:
            raise InputError(f"{source} has routing for layer {layer}, which is not a MoE layer of the model")
    return [row for row, layer in enumerate(layer_of_row) if layer in moe]


def _answers(file: Path) -> Iterator[tuple[str, Any]]:
    head = head_of(file).lstrip()
    end = head.find(b"\n")
    is_lines = head[:1] == b"{" and end > 0 and head[:end].rstrip().endswith(b"}")
    if is_lines or (head[:1] == b"{" and end < 0 and file.stat().st_size > len(head)):
        yield from json_lines(file)
        return
    answer = read_json(file)
    for number, one in enumerate(answer) if isinstance(answer, list) else [(None, answer)]:
        yield str(file) if number is None else f"{file} answer {number}", one


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Every text under the key `routed_experts`, outermost first."""
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == _KEY and isinstance(inner, str):
                yield inner
            elif isinstance(inner, (dict, list)):
                yield from _texts(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, (dict, list)):
                yield from _texts(inner, depth + 1)


def _decoded(text: str, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{place}: {_KEY} is not base64 ({error}); the answer is truncated or damaged") from None
