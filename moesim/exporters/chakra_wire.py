"""Chakra execution traces on the wire: protobuf messages of schema et_def.proto, each behind its length as a varint.

Field numbers: mlcommons/chakra schema/protobuf/et_def.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from moesim.errors import InputError

COMP, SEND, RECV = 4, 5, 6
VERSION = "0.0.4"
_ID, _NAME, _TYPE, _DEPS, _DURATION, _ATTR = 1, 2, 3, 5, 7, 10
# what the feeder reads under each name, and the field that holds such a value
_FIELD_OF = {
    "is_cpu_op": 27,  # bool
    "num_ops": 9,  # int64
    "tensor_size": 13,  # uint64
    "comm_size": 9,
    "comm_src": 7,  # int32
    "comm_dst": 7,
    "comm_tag": 7,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChakraNode:
    """One node: `deps` are ids of data dependencies, `attributes` plain integers by the feeder's names."""

    id: int
    name: str
    kind: int
    deps: tuple[int, ...] = ()
    duration_us: int = 0
    attributes: dict[str, int] = field(default_factory=dict)


def encode_trace(nodes: list[ChakraNode]) -> bytes:
    """The trace of one NPU."""
    parts = [_with_length(_text(1, VERSION))]
    parts += [_with_length(_encode(node)) for node in nodes]
    return b"".join(parts)


def decode_trace(content: bytes) -> tuple[str, list[ChakraNode]]:
    """Version and nodes of a trace; raises InputError where it breaks off or holds what no trace does."""
    messages = list(_messages(content))
    if not messages:
        raise InputError("this is no Chakra trace: it holds no message")
    version = next((value.decode() for number, value in _fields(messages[0]) if number == 1), "")
    return version, [_decode(message) for message in messages[1:]]


def _encode(node: ChakraNode) -> bytes:
    deps = b"".join(_varint(dep) for dep in node.deps)
    parts = [_number(_ID, node.id), _text(_NAME, node.name), _number(_TYPE, node.kind)]
    if deps:
        parts.append(_block(_DEPS, deps))
    if node.duration_us:
        parts.append(_number(_DURATION, node.duration_us))
    parts += [_attribute("is_cpu_op", 0)]
    parts += [_attribute(name, value) for name, value in node.attributes.items()]
    return b"".join(parts)


def _attribute(name: str, value: int) -> bytes:
    return _block(_ATTR, _text(1, name) + _varint(_FIELD_OF[name] << 3) + _varint(value))


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""  # proto3 leaves zeros out


def _text(number: int, text: str) -> bytes:
    return _block(number, text.encode())


def _block(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _with_length(content)


def _with_length(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _messages(content: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(content):
        length, place = _read_varint(content, place)
        if place + length > len(content):
            raise InputError(f"this Chakra trace breaks off in a message of {length} bytes at byte {place}")
        yield content[place : place + length]
        place += length


def _decode(message: bytes) -> ChakraNode:
    found: dict[int, Any] = {}
    attributes: dict[str, int] = {}
    deps: list[int] = []
    for number, value in _fields(message):
        if number == _ATTR:
            inner = dict(_fields(value))
            name = inner.pop(1, b"").decode()
            attributes[name] = next((v for key, v in inner.items() if key == _FIELD_OF.get(name)), 0)
        elif number == _DEPS:
            deps += _unpacked(value) if isinstance(value, bytes) else [value]
        else:
            found[number] = value
    return ChakraNode(
        id=found.get(_ID, 0),
        name=found.get(_NAME, b"").decode(),
        kind=found.get(_TYPE, 0),
        deps=tuple(deps),
        duration_us=found.get(_DURATION, 0),
        attributes=attributes,
    )


def _unpacked(block: bytes) -> list[int]:
    numbers, place = [], 0
    while place < len(block):
        number, place = _read_varint(block, place)
        numbers.append(number)
    return numbers


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, integer or bytes) of a message that has varints and length-delimited fields only."""
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        value, place = _read_varint(message, place)
        if key & 7 == 2:
            if place + value > len(message):
                raise InputError(f"this Chakra trace breaks off in field {key >> 3}")
            yield key >> 3, message[place : place + value]
            place += value
        elif key & 7 == 0:
            yield key >> 3, value
        else:
            raise InputError(f"this Chakra trace has a field of wire type {key & 7}, which none of its nodes has")


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(content) and shift < 70:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise InputError(f"this Chakra trace breaks off in a number at byte {place}")
