"""YAML text to plain data, remembering for every value the line and column where it stands.

The scalars are those of the YAML 1.2 core schema, as editors read them, with decimal numbers only: `NO`, `ON`, `yes`
and `0x1F` are text (some are symbols too), and only `true` and `false` are booleans. Tags, merge keys and a second
document are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

# Bounds that no sensible workflow reaches; beyond them parsing time is no longer bounded by a reader's patience.
MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 32

Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong with a workflow. Line and column count from 1; (1, 1) where it is the whole file."""

    line: int
    column: int
    message: str


@dataclass(frozen=True)
class Document:
    """What a YAML text says.

    :param data: plain JSON types.
    :param values: path -> (line, column) of each value.
    :param keys: path -> (line, column) of each mapping key.
    """

    data: Any
    values: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    keys: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def locate(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Where the value (or its key) stands; for what is not there, the nearest thing around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path:
            if path in self.values:
                return self.values[path]
            path = path[:-1]
            if path in self.keys:
                return self.keys[path]
        return (1, 1)


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML down to nodes, with the scalars of YAML 1.2; there is no constructor that could build objects."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


# Control characters but tab and line ends, and halves of surrogate pairs: escapes in quoted text can make them.
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# PyYAML ends a line at these, as YAML 1.1 says, and editors do not: every line number after one would be wrong.
_ODD_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern})$"), _first)
# Whole numbers up to here are the same in Python, in JSON and in every database.
_MAX_DIGITS = 15


def parse(content: bytes) -> tuple[Document | None, list[Fault]]:
    """Read a YAML file's bytes. Either a document, or the faults that keep it from being one; never an exception."""
    text, faults = _decode(content)
    if faults:
        return None, faults
    try:
        if fault := _refused(text):
            return None, [fault]
        loader = _Loader(text)
        node = loader.get_single_node()
    except ReaderError as error:
        line, column = _position(text, error.position)
        return None, [Fault(line, column, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML.")]
    except yaml.MarkedYAMLError as error:
        return None, [_syntax_fault(error)]
    if node is None:
        return None, [Fault(1, 1, "the file is empty; it needs at least `id:` and `tasks:`.")]
    builder = _Builder()
    data = builder.build(node, ())
    return Document(data, builder.values, builder.keys), builder.faults


def _decode(content: bytes) -> tuple[str, list[Fault]]:
    if len(content) > MAX_BYTES:
        return "", [Fault(1, 1, f"the file has {len(content)} bytes; a workflow may have {MAX_BYTES}.")]
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        # `error.object` is the content behind the byte order mark.
        before = error.object[: error.start].decode()
        line, column = _position(before, len(before))
        return "", [
            Fault(line, column, f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8.")
        ]
    if odd := _ODD_LINE_ENDS.search(text):
        message = f"the character U+{ord(odd[0]):04X} ends a line for YAML and in no editor; remove it."
        return "", [Fault(*_position(text, odd.start()), message)]
    return text, []


def _position(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1


def _refused(text: str) -> Fault | None:
    """The first tag, too deep or too many values. Looked for in the events, which PyYAML makes without recursion."""
    depth = values = 0
    for event in _events(text):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        values += isinstance(event, yaml.NodeEvent)
        if tag := getattr(event, "tag", None):
            shown = tag.replace(_TAG, "!!")
            return Fault(*_mark(event.start_mark), f"the tag {shown} is not allowed; write plain values.")
        if depth > MAX_DEPTH:
            return Fault(*_mark(event.start_mark), f"values are nested deeper than {MAX_DEPTH} levels.")
        if values > MAX_VALUES:
            return Fault(*_mark(event.start_mark), f"the file has more than {MAX_VALUES} values.")
    return None


def _events(text: str) -> Iterator[yaml.Event]:
    loader = _Loader(text)
    while loader.check_event():
        yield loader.get_event()  # type: ignore[no-untyped-call]


def _mark(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _syntax_fault(error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    line, column = _mark(mark) if mark else (1, 1)
    problem = error.problem or "not YAML"
    if "'\\t'" in problem:
        problem = "a tab stands where YAML wants spaces; indent with spaces"
    elif problem == "second occurrence":
        problem = "an anchor of this name stands before; name each once"
    elif problem.startswith("but found another document"):
        problem = "a second document begins; write one workflow per file"
    elif error.context and error.context_mark and error.context_mark.line + 1 != line:
        problem = f"{problem} ({error.context}, begun on line {error.context_mark.line + 1})"
    return Fault(line, column, problem + ".")


class _Builder:
    """Nodes to plain data; collects positions and every fault on the way."""

    def __init__(self) -> None:
        self.values: dict[Path, tuple[int, int]] = {}
        self.keys: dict[Path, tuple[int, int]] = {}
        self.faults: list[Fault] = []
        self._count = 0
        self._open: set[int] = set()
        self._exploded = False

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        at = _mark(node.start_mark)
        self.values[path] = at
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH or id(node) in self._open:
            if not self._exploded:
                too_large = f"expand to more than {MAX_VALUES} values or {MAX_DEPTH} levels"
                what = "refer to themselves" if id(node) in self._open else too_large
                self.faults.append(Fault(*at, f"the aliases {what}; write the values out."))
            self._exploded = True
            return None
        if self._exploded:
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                self._refuse(key_node, "a key must be text; put it in quotes if it is meant as text.")
                continue
            if self._is_unusable(key_node):
                continue
            if name == "<<" and key_node.style is None:
                self._refuse(key_node, "merge keys (<<) are not supported; use `defaults:` or `strategies:`.")
                continue
            here = (*path, name)
            if name in result:
                first = self.keys[here][0]
                self._refuse(key_node, f"the key {name!r} is here twice (first on line {first}); remove one.")
                continue
            self.keys[here] = _mark(key_node.start_mark)
            result[name] = self.build(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            if len(text.lstrip("+-")) <= _MAX_DIGITS:
                return int(text)
            return self._refuse(node, f"a number may have at most {_MAX_DIGITS} digits; quote it if it is text.")
        if kind == "float":
            number = float(text) if text.strip("+-").lower() not in (".inf", ".nan") else math.inf
            return number if math.isfinite(number) else self._refuse(node, f"{text} is not a finite number.")
        return None if self._is_unusable(node) else text

    def _is_unusable(self, node: yaml.ScalarNode) -> bool:
        bad = _UNUSABLE.search(node.value)
        if bad:
            self._refuse(node, f"the text has the character U+{ord(bad[0]):04X}, which no database can hold.")
        return bad is not None

    def _refuse(self, node: yaml.Node, message: str) -> None:
        self.faults.append(Fault(*_mark(node.start_mark), message))
