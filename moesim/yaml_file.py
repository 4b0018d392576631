"""Safe reading of our own YAML files, and one sentence for the first thing wrong in them.

Files hold plain data only: text, numbers, booleans, null, lists, mappings with text keys. Tags, anchors and aliases
(and with them every expansion bomb), duplicate keys, several documents, non-finite and absurd numbers are refused
before any of it is built. Scalars follow YAML 1.2: `1e9` is a number, `4:8` and `no` are text, `010` is ten.
"""

import math
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from moesim.errors import InputError, unknown_name

LARGEST_FILE_BYTES = 1_000_000
DEEPEST = 32
LARGEST_NUMBER = 1e30

# The C parser is ten times faster; it is absent where PyYAML was built without libyaml.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
Model = TypeVar("Model", bound=BaseModel)


class _PlainLoader(_Base):  # type: ignore[misc]  # the base is picked at import: C where it exists
    """Safe loader with YAML 1.2 scalars, text keys, no duplicate keys."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, list[Any]]] = {}
    yaml_constructors: typing.ClassVar[dict[Any, Any]] = {}


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file of at most 1 MB.

    Raises InputError, in one sentence, for a file that is missing, a folder, empty, not UTF-8, not YAML, too large or
    too deep, that holds tags, aliases, duplicate keys or unusable numbers, or whose top level is not a mapping.
    """
    return parse_yaml(_read_text(Path(path)), str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """As `read_yaml`, from text; `where` names the text in errors."""
    try:
        _check_events(text, where)
        data = yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not usable YAML: {_one_line(error)}") from None
    except ValueError as error:  # integers of thousands of digits, bad surrogates
        raise InputError(f"{where} is not usable YAML: {str(error)[:100]}") from None
    if data is None:
        raise InputError(f"{where} is empty; expected a mapping of keys to values")
    if not isinstance(data, dict):
        raise InputError(f"{where} holds a {type(data).__name__} at its top; expected a mapping of keys to values")
    _check_numbers(data, where, ())
    return data


def validate(model_class: type[Model], data: Any, where: str) -> Model:
    """`data` as a `model_class`; raises InputError naming `where`, the key, the value got and what is allowed.

    An unknown key is reported first, with the nearest known key: a misspelt key usually leaves another one missing.
    """
    try:
        return model_class.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
        raise _sentence(model_class, (unknown or problems)[0], where) from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; expected a YAML file")
        if not path.exists():
            raise InputError(f"{path} does not exist; expected a YAML file")
        if not path.is_file():
            raise InputError(f"{path} is not an ordinary file")
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {str(path)[:200]!r}: {error}") from None
    if len(content) > LARGEST_FILE_BYTES:
        raise InputError(f"{path} is larger than {LARGEST_FILE_BYTES} bytes, the most a YAML file may hold")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: byte {error.start} is not valid") from None


def _check_events(text: str, where: str) -> None:
    """Refuse what must not be built, from the flat stream of parser events: no recursion, no expansion."""
    depth = 0
    event: Any  # the C parser's events are not in PyYAML's stubs
    for event in yaml.parse(text, Loader=_Base):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise InputError(
                f"{where} line {line} uses the alias *{str(event.anchor)[:40]}; write the value out instead"
            )
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise InputError(
                f"{where} line {line} defines the anchor &{event.anchor[:40]}; write the value out instead"
            )
        if getattr(event, "tag", None) is not None:
            raise InputError(f"{where} line {line} uses the tag {event.tag[:60]!r}; tags are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise InputError(f"{where} line {line} is nested more than {DEEPEST} levels deep")


def _check_numbers(value: Any, where: str, keys: tuple[Any, ...]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_numbers(item, where, (*keys, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_numbers(item, where, (*keys, index))
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {_dotted(keys)} is {value}; numbers must be finite")
    elif isinstance(value, (int, float)) and abs(value) > LARGEST_NUMBER:
        raise InputError(f"{where}: {_dotted(keys)} is larger than {LARGEST_NUMBER:g}, the largest number accepted")


def _one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark or error.context_mark
        return " ".join(error.problem.split()) + (f" at line {mark.line + 1}" if mark else "")
    return " ".join(str(error).split())[:200]


def _sentence(model_class: type[BaseModel], problem: Any, where: str) -> InputError:
    location: tuple[Any, ...] = problem["loc"]
    if problem["type"] == "extra_forbidden":
        inside = f" ({_dotted(location[:-1])})" if len(location) > 1 else ""
        return unknown_name(
            f"key in {where}{inside}:",
            str(location[-1]),
            _known_keys(model_class, location[:-1]),
        )
    key = _dotted(location) or "the whole"
    message = _PLAIN_WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return InputError(f"{where}: the key {key} is missing")
    if problem["type"] == "value_error":
        return InputError(f"{where}: {key}: {message}")
    got = repr(problem["input"])
    return InputError(f"{where}: {key} got {got if len(got) <= 80 else got[:77] + '...'}; {message}")


# What pydantic says in Python's words, said in YAML's.
_PLAIN_WORDS = {
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "string_type": "expected text",
}


def _dotted(keys: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{str(key)[:60]}" for key in keys).removeprefix(".")


def _known_keys(model_class: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Field names of the models `location` leads to; steps that name no field (indices, dict keys, tags) stay put."""
    candidates = [model_class]
    for step in location:
        named = [one for one in candidates if one.__name__ == step]
        fields = [one.model_fields[step] for one in candidates if step in one.model_fields]
        candidates = named or [model for field in fields for model in _models_in(field.annotation)] or candidates
    return [field.alias or name for one in candidates for name, field in one.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _read_int(loader: Any, node: Any) -> int:
    return int(loader.construct_scalar(node), 16 if "x" in node.value else 10)


def _read_float(loader: Any, node: Any) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


def _read_mapping(loader: Any, node: Any) -> Any:
    result: dict[str, Any] = {}
    yield result
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _refused(
                f"the key {str(key)[:40]!r} is a {type(key).__name__}, keys must be text,",
                key_node,
            )
        if key in result:
            raise _refused(f"the key {key[:60]!r} is given twice", key_node)
        result[key] = loader.construct_object(value_node, deep=True)


def _refused(problem: str, node: Any) -> Exception:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _define_scalars() -> None:
    """YAML 1.2 core schema instead of PyYAML's 1.1 (where 4:8 is 248, `no` is false, 1e9 is text)."""
    resolve, construct = (
        _PlainLoader.add_implicit_resolver,
        _PlainLoader.add_constructor,
    )
    resolve(_TAG + "null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    resolve(_TAG + "bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    resolve(
        _TAG + "int",
        re.compile(r"^([-+]?[0-9]+|0x[0-9a-fA-F]+)$"),
        list("-+0123456789"),
    )
    number = r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    resolve(_TAG + "float", re.compile(number), list("-+.0123456789"))
    safe = yaml.constructor.SafeConstructor
    construct(_TAG + "null", safe.construct_yaml_null)
    construct(_TAG + "bool", safe.construct_yaml_bool)
    construct(_TAG + "int", _read_int)
    construct(_TAG + "float", _read_float)
    construct(_TAG + "str", safe.construct_yaml_str)
    construct(_TAG + "seq", safe.construct_yaml_seq)
    construct(_TAG + "map", _read_mapping)


_define_scalars()
