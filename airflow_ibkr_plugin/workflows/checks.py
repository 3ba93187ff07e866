"""Everything that can be wrong with a workflow's configuration: against the schema, and beyond it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.registry import Registry
from airflow_ibkr_plugin.workflows.graph import find_cycles, input_candidates, upstream
from airflow_ibkr_plugin.workflows.model import EXECUTION_DEFAULTS, symbol_name
from airflow_ibkr_plugin.workflows.schema import MAX_TASKS, NAME, PRESETS, compose
from airflow_ibkr_plugin.workflows.yaml_text import Path

# Ids that the builder gives to tasks and groups of its own.
RESERVED_IDS = frozenset({"start_run", "finish_run", "all_succeeded", "symbol"})
# What an order task may take besides its wait: the session, sizing, risk, sending, recovery and the confirmed cancel.
ORDER_SECONDS = 120
_TEMPLATE_MARKS = ("{{", "{%", "{#")
_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


def _is_integer(_: TypeChecker, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _pattern(_: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not re.search(re.sub(r"(?<!\\)\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


# JSON Schema where Python would be laxer: 2.0 is no integer (Airflow and slices refuse it later), and `$` is the end of
# the text, not a place before a last line end.
_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {"pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


@dataclass(frozen=True)
class Problem:
    """A fault, by path. :param key: it is the key at that path which is wrong, not its value."""

    path: Path
    message: str
    key: bool = False


class Checker:
    """Checks configurations against what one registry offers; make it once for many files."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.schema = compose(registry)
        self._validator = _Validator(self.schema)
        fields = self.schema["properties"]
        self._template = _Validator(
            {"required": ["id"], "properties": {name: fields[name] for name in ("id", "strategies")}}
        )

    def config(self, config: Mapping[str, Any]) -> list[Problem]:
        """All problems of one strategy's configuration, without `strategies`; sorted by path, none twice."""
        found = set(self._schema_problems(self._validator, config))
        wrong = {problem.path for problem in found}
        for check in (_time, _symbols, _templates, self._calendar, self._tasks):
            found |= {problem for problem in check(config) if problem.path not in wrong}
        return sorted(found, key=lambda problem: (str(problem.path), problem.message))

    def template(self, data: Mapping[str, Any]) -> list[Problem]:
        """Problems of a file with `strategies` that are in none of them: its own `id`, and the form of the field."""
        return list(dict.fromkeys(self._schema_problems(self._template, data)))

    def _schema_problems(self, validator: Any, value: Any) -> Iterator[Problem]:
        for error in validator.iter_errors(value):
            yield from self._explain(error)

    def _explain(self, error: ValidationError) -> Iterator[Problem]:
        path: Path = tuple(error.absolute_path)
        rule: Any = error.validator_value
        value: Any = error.instance
        if "propertyNames" in error.absolute_schema_path:
            yield Problem((*path, value), f"{value!r} is no id: {_form(error)}", key=True)
        elif error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {})) if isinstance(error.schema, Mapping) else []
            for name in value:
                if name not in known:
                    kind = "risk rule" if path == ("risk",) else "field"
                    yield Problem((*path, name), f"unknown {kind} {name!r}.{nearest(name, known)}", key=True)
        elif error.validator == "required":
            for name in rule:
                if name not in value:
                    yield Problem(path, f"the field {name!r} is missing.")
        elif error.validator in ("anyOf", "oneOf") and error.context:
            yield from self._alternatives(path, error.context)
        elif path == ("package",) and (off := self._failed_package(value)):
            yield Problem(path, f"the strategy package {value!r} is not loaded: {off}.")
        else:
            yield Problem(path, _message(error))

    def _alternatives(self, path: Path, context: Sequence[ValidationError]) -> Iterator[Problem]:
        """What is wrong with the alternative that was meant: the one whose fixed fields (`name: sma`) are right."""
        branches: dict[Any, list[ValidationError]] = {}
        for error in context:
            branches.setdefault(error.schema_path[0], []).append(error)
        meant = [errors for errors in branches.values() if not any(error.validator == "const" for error in errors)]
        fixed = {tuple(error.absolute_path): error.instance for error in context if error.validator == "const"}
        if len(meant) == 1:
            for error in meant[0]:
                yield from self._explain(error)
        elif not meant and len(fixed) == 1:
            ((where, given),) = fixed.items()
            known = [str(error.validator_value) for error in context if error.validator == "const"]
            yield Problem(where, f"{_short(given)} is not allowed here.{nearest(str(given), known)}")
        else:
            forms = dict.fromkeys(_message(error) for error in context)
            yield Problem(path, f"it fits none of the allowed forms: {' or '.join(forms)}")

    def _failed_package(self, name: Any) -> str:
        return next((package.error for package in self.registry.packages if package.name == name), "")

    def _calendar(self, config: Mapping[str, Any]) -> Iterator[Problem]:
        name = config.get("calendar", "")
        if not name or not isinstance(name, str):
            return
        # Takes a second, so only where a calendar is named.
        from airflow_ibkr_plugin.trading.calendars import calendar_names

        if name not in (names := calendar_names()):
            yield Problem(("calendar",), f"no exchange calendar is named {name!r}.{nearest(name, names)}")

    def _tasks(self, config: Mapping[str, Any]) -> Iterator[Problem]:
        tasks = config.get("tasks")
        if not isinstance(tasks, Mapping) or len(tasks) > MAX_TASKS:
            return
        sound = {name: task for name, task in tasks.items() if isinstance(task, Mapping)}
        needs = {name: _texts(task.get("needs")) for name, task in sound.items()}
        for name, upstreams in needs.items():
            if name in RESERVED_IDS:
                yield Problem(("tasks", name), f"the id {name!r} is the builder's own; choose another.", key=True)
            for index, other in enumerate(upstreams):
                if other not in tasks:
                    message = f"no task is named {other!r}.{nearest(other, tasks)}"
                    yield Problem(("tasks", name, "needs", index), message)
        cycles = find_cycles(needs)
        for cycle in cycles:
            yield Problem(("tasks", cycle[0], "needs"), f"the tasks need each other in a circle: {' -> '.join(cycle)}.")
        # Which task builds on which can only be told once the needs themselves are right.
        known = all(other in sound for upstreams in needs.values() for other in upstreams)
        for name, task in sound.items():
            yield from self._task(name, task, sound, needs if known and not cycles else {}, config)

    def _task(
        self,
        name: str,
        task: Mapping[str, Any],
        tasks: Mapping[str, Mapping[str, Any]],
        needs: Mapping[str, Sequence[str]],
        config: Mapping[str, Any],
    ) -> Iterator[Problem]:
        kind = task.get("type")
        task_type = self.registry.task_types.get(kind) if isinstance(kind, str) else None
        if task_type is None:
            return
        path: Path = ("tasks", name)
        mapped = "for_each" in task
        if task_type.per_symbol and not mapped:
            yield Problem(path, f"a {kind} task runs for each symbol; add `for_each: symbol`.")
        if mapped and not task_type.per_symbol:
            yield Problem((*path, "for_each"), f"a {kind} task runs once for all symbols; remove `for_each`.", key=True)
        if (mapped or "symbols" in task_type.takes) and not config.get("symbols"):
            yield Problem(path, f"a {kind} task needs symbols; add `symbols:` to the workflow.")
        if mapped:
            for other in sorted(upstream(name, needs)):
                if "for_each" not in tasks[other] and any("for_each" in tasks[n] for n in upstream(other, needs)):
                    yield Problem(
                        (*path, "needs"),
                        f"it runs for each symbol and needs {other!r}, which waits for all symbols;"
                        " what runs for each symbol is one group.",
                    )
        if "mode" in task_type.takes and "wait_seconds" in task_type.parameters.get("properties", {}):
            yield from _order_wait(path, task, task_type.parameters["properties"]["wait_seconds"], config)
        types = {other: str(values.get("type")) for other, values in tasks.items()}
        given = task.get("parameters")
        for argument, wanted in task_type.inputs.items() if needs else ():
            if isinstance(given, Mapping) and argument in given:
                chosen = [given[argument]]
                where: Path = (*path, "parameters", argument)
                if types.get(given[argument]) != wanted or given[argument] not in upstream(name, needs):
                    yield Problem(where, f"{given[argument]!r} is no {wanted} task before this one.")
                    continue
            else:
                chosen = input_candidates(name, wanted, needs, types)
                where = (*path, "needs") if "needs" in task else path
            if not chosen:
                yield Problem(where, f"a {kind} task builds on a {wanted} task; name one in `needs`.")
            elif len(chosen) > 1:
                yield Problem(where, f"{', '.join(chosen)} are all {wanted} tasks; say which with `{argument}`.")
            elif self.registry.task_types[wanted].per_symbol and not mapped:
                yield Problem(where, f"it builds on {chosen[0]!r}, which runs for each symbol.")


def _order_wait(
    path: Path, task: Mapping[str, Any], schema: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Problem]:
    """A time-out that strikes while an order waits would leave it at the broker, with nobody to cancel it."""
    given, defaults = task.get("parameters"), config.get("defaults")
    parameters = given if isinstance(given, Mapping) else {}
    name = "execution_timeout_seconds"
    shared: Mapping[str, Any] = defaults if isinstance(defaults, Mapping) else {}
    wait = parameters.get("wait_seconds", schema.get("default", 0))
    timeout = task.get(name, shared.get(name, EXECUTION_DEFAULTS[name]))
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in (wait, timeout)):
        return  # the schema says so
    if wait + ORDER_SECONDS <= timeout:
        return
    if "wait_seconds" in parameters:
        where: Path = (*path, "parameters", "wait_seconds")
    else:
        where = (*path, name) if name in task else ("defaults", name)
    yield Problem(
        where,
        f"wait_seconds {wait:g} needs an {name} of at least {wait + ORDER_SECONDS:g}, and it is {timeout:g}:"
        " the task would be ended while its order is still at the broker. Wait less, or raise the time-out.",
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` where a known name is close, else the known names where they are few, else nothing."""
    names = sorted(known)
    if close := difflib.get_close_matches(str(name), names, 1, 0.6):
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}." if 0 < len(names) <= 30 else ""


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _form(error: ValidationError) -> str:
    if error.validator == "pattern" and error.validator_value == NAME["pattern"]:
        return "use at most 64 lower-case letters, digits and _, beginning with a letter."
    return f"{error.message}."


def _message(error: ValidationError) -> str:
    value: Any = error.instance
    rule: Any = error.validator_value
    keyword = error.validator
    if keyword == "type":
        return _wrong_type([rule] if isinstance(rule, str) else list(rule), value)
    if keyword in ("enum", "const"):
        allowed = [str(one) for one in (rule if keyword == "enum" else [rule])]
        return f"{_short(value)} is not allowed here.{nearest(str(value), allowed)}"
    if keyword == "pattern":
        if rule == NAME["pattern"]:
            return f"{_short(value)} is no id: {_form(error)}"
        return f"{_short(value)} does not have the form {rule}."
    if keyword in ("maxProperties", "maxItems", "maxLength"):
        unit = "characters" if keyword == "maxLength" else "entries"
        return f"{len(value)} {unit} are too many; {rule} are allowed."
    if error.schema is False or (keyword == "not" and rule == {}):
        return "this field cannot stand here."
    return f"{error.message if len(error.message) <= 200 else f'{_short(value)} fails `{keyword}`'}."


def _wrong_type(wanted: Sequence[str], value: Any) -> str:
    kinds = " or ".join(_TYPE_NAMES.get(kind, kind) for kind in wanted)
    if value is None and wanted == ["object"]:
        return "nothing stands here; write {} where there are no parameters."
    if value is None:
        quotes = " Put null in quotes if it is meant as text." if "string" in wanted else ""
        return f"nothing stands here, where {kinds} must.{quotes}"
    message = f"{_short(value)} is not {kinds}."
    if "string" in wanted and isinstance(value, (bool, int, float)):
        return f"{message} Put it in quotes if it is meant as text."
    return message


def _time(config: Mapping[str, Any]) -> Iterator[Problem]:
    zone = config.get("time_zone")
    if isinstance(zone, str) and (fault := _zone_fault(zone)):
        yield Problem(("time_zone",), fault)
    schedule = config.get("schedule")
    if isinstance(schedule, str) and schedule not in PRESETS and not _is_cron(schedule):
        yield Problem(("schedule",), f"{schedule!r} is neither cron with five fields nor one of {', '.join(PRESETS)}.")
    start = config.get("start_date")
    if isinstance(start, str):
        try:
            date.fromisoformat(start)
        except ValueError as error:
            yield Problem(("start_date",), f"{start!r} is no date ({error}); write it as 2024-01-31.")


def _is_cron(text: str) -> bool:
    from airflow.sdk import CronTriggerTimetable
    from airflow.sdk.exceptions import AirflowTimetableInvalid

    try:
        CronTriggerTimetable(text, timezone="UTC").validate()
    except AirflowTimetableInvalid:
        return False
    return len(text.split()) == 5


def _zone_fault(zone: str) -> str:
    from zoneinfo import ZoneInfo, available_timezones

    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return f"no time zone is named {zone!r}.{nearest(zone, available_timezones())}"
    return ""


def _symbols(config: Mapping[str, Any]) -> Iterator[Problem]:
    symbols = config.get("symbols")
    first: dict[str, int] = {}
    for index, symbol in enumerate(symbols if isinstance(symbols, list) else ()):
        if not isinstance(symbol, (str, Mapping)):
            continue
        try:
            name = symbol_name(symbol)
        except (ConfigError, TypeError) as error:
            yield Problem(("symbols", index), str(error))
            continue
        if name in first:
            yield Problem(("symbols", index), f"{name} is here twice (first as number {first[name] + 1}); remove one.")
        first.setdefault(name, index)


def _templates(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Text of a workflow is data. What looks like a template is refused, so that nothing can ever render it."""

    def walk(value: Any, path: Path, report: Callable[[Path, bool], Problem]) -> Iterator[Problem]:
        if isinstance(value, str) and any(mark in value for mark in _TEMPLATE_MARKS):
            yield report(path, False)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                if any(mark in name for mark in _TEMPLATE_MARKS):
                    yield report((*path, name), True)
                yield from walk(item, (*path, name), report)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from walk(item, (*path, index), report)

    return walk(
        config, (), lambda path, key: Problem(path, "templates ({{ }}) are not allowed; write the value itself.", key)
    )
