"""Workflow files and overrides to workflows, or to every fault at once as `file:line:column: message`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.workflows import yaml_text
from airflow_ibkr_plugin.workflows.checks import Checker, Problem
from airflow_ibkr_plugin.workflows.merge import merge, refused_fields
from airflow_ibkr_plugin.workflows.model import Workflow
from airflow_ibkr_plugin.workflows.yaml_text import MAX_BYTES, Document, Fault

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Override:
    """What the trading database lays over one strategy."""

    version: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One strategy of a file, or what is wrong with it.

    :param strategy: '' where the file is too broken to say.
    :param workflow: None where there are faults.
    """

    strategy: str
    file: Path
    workflow: Workflow | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def error(self) -> ConfigError | None:
        """All faults in one error, a line each."""
        if not self.faults:
            return None
        lines = [f"{self.file}:{fault.line}:{fault.column}: {fault.message}" for fault in self.faults]
        return ConfigError("\n".join(lines), remedy="\nMend it; docs/workflows.md tells what each field means.")


def load_folder(folder: Path, checker: Checker, overrides: Mapping[str, Override] | None = None) -> list[Loaded]:
    """Every strategy of every YAML file of a folder (not of folders in it), sorted by file.

    Strategies of the same name in different files are all refused, since neither is known to be meant.

    :raises ConfigError: the folder cannot be listed.
    """
    return refuse_clashes(loaded for file in workflow_files(folder) for loaded in load_file(file, checker, overrides))


def workflow_files(folder: Path) -> list[Path]:
    """The YAML files of a folder (not of folders in it), sorted.

    :raises ConfigError: the folder cannot be listed.
    """
    try:
        return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    except OSError as error:
        raise ConfigError(
            f"the workflows folder {folder} cannot be read: {error.strerror or error}.",
            remedy="Make it, or set [ibkr] workflows_folder to the folder with the workflow files.",
        ) from error


def load_file(file: Path, checker: Checker, overrides: Mapping[str, Override] | None = None) -> list[Loaded]:
    """The strategies of one file: usually one, or one for each of its `strategies`."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        fault = Fault(1, 1, f"the file cannot be read: {error.strerror or error}.")
        return [Loaded(strategy="", file=file, faults=(fault,))]
    return load_text(content, file, checker, overrides)


def load_text(
    content: bytes, file: Path, checker: Checker, overrides: Mapping[str, Override] | None = None
) -> list[Loaded]:
    """As :func:`load_file`, from the content. `file` only names it."""
    document, faults = yaml_text.parse(content)
    if document is None:
        return [Loaded(strategy="", file=file, faults=tuple(faults))]
    data = document.data
    if not isinstance(data, Mapping):
        return [Loaded(strategy="", file=file, faults=(Fault(1, 1, "the file is not a mapping of fields."),))]
    base = {name: value for name, value in data.items() if name != "strategies"}
    patches = data.get("strategies")
    problems = checker.template(data) if "strategies" in data else []
    loaded = []
    if isinstance(patches, Mapping) and patches:
        for name, patch in patches.items():
            own = [problem for problem in problems if _concerns(problem, name)]
            patch = patch if isinstance(patch, Mapping) else {}
            loaded.append(_strategy(name, base, patch, document, file, checker, own, overrides))
    else:
        loaded.append(_strategy(str(data.get("id", "")), base, None, document, file, checker, problems, overrides))
    if faults:
        # What is refused in the text is absent from the data: the checks would only complain of it again.
        loaded = [replace(item, workflow=None, faults=tuple(sorted(faults))) for item in loaded]
    return loaded


def refuse_clashes(loaded: Iterable[Loaded]) -> list[Loaded]:
    """Strategies whose name is taken more than once get a fault that names the other files."""
    strategies = list(loaded)
    owners: dict[str, list[Path]] = defaultdict(list)
    for item in strategies:
        if item.strategy:
            owners[item.strategy].append(item.file)
    result = []
    for item in strategies:
        others = [str(file) for file in owners.get(item.strategy, []) if file != item.file]
        if others:
            fault = Fault(1, 1, f"the strategy {item.strategy!r} is in {', '.join(others)} too; rename one.")
            item = replace(item, workflow=None, faults=(*item.faults, fault))
        result.append(item)
    return result


def check_override(content: bytes, file: Path, strategy: str, parameters: Mapping[str, Any], checker: Checker) -> None:
    """Whether a workflow file would still be sound with this override of one of its strategies.

    :raises ConfigError: it would not; every fault is named.
    """
    overrides = {strategy: Override(version=0, parameters=parameters)}
    found = [loaded for loaded in load_text(content, file, checker, overrides) if loaded.strategy == strategy]
    if not found:
        raise ConfigError(f"{file} has no strategy {strategy!r}.", remedy="Name one of its strategies.")
    if error := found[0].error:
        raise error


def _strategy(
    name: str,
    base: Mapping[str, Any],
    patch: Mapping[str, Any] | None,
    document: Document,
    file: Path,
    checker: Checker,
    of_template: Sequence[Problem],
    overrides: Mapping[str, Override] | None,
) -> Loaded:
    config = dict(base) if patch is None else {**merge(base, patch), "id": name}
    problems = checker.config(config)
    id_is_sound = not any(problem.path == ("id",) for problem in problems)
    if patch is not None:
        # The id is a key of `strategies` then, and what is wrong with it is said there.
        problems = [problem for problem in problems if problem.path != ("id",)]
    found = [_fault(document, problem) for problem in of_template]
    found += [_fault(document, problem, name if patch is not None else None) for problem in problems]
    override = (overrides or {}).get(name)
    if override is not None and not found:
        config, found = _overridden(config, override, document, checker)
    strategy = name if id_is_sound else ""
    if found:
        return Loaded(strategy=strategy, file=file, faults=tuple(sorted(dict.fromkeys(found))))
    return Loaded(strategy=strategy, file=file, workflow=Workflow.from_config(config))


def _concerns(problem: Problem, strategy: str) -> bool:
    """Whether a problem of a file with `strategies` is this strategy's, or that of all of them."""
    return problem.path[:1] != ("strategies",) or problem.path[1:2] in ((), (strategy,))


def _overridden(
    config: Mapping[str, Any], override: Override, document: Document, checker: Checker
) -> tuple[dict[str, Any], list[Fault]]:
    label = f"override {override.version} of {config['id']!r}" if override.version else f"override of {config['id']!r}"
    found = [Fault(1, 1, f"{label}: {message}") for message in refused_fields(override.parameters)]
    if found:
        return dict(config), found
    merged = merge(config, override.parameters)
    for problem in checker.config(merged):
        where = ".".join(map(str, problem.path)) or "workflow"
        line, column = document.locate(problem.path, key=problem.key)
        found.append(Fault(line, column, f"{label}: {where}: {problem.message}"))
    return merged, found


def _fault(document: Document, problem: Problem, strategy: str | None = None) -> Fault:
    """The problem where it stands in the file: in the strategy's own patch if that says it, else in the base."""
    path = problem.path
    if strategy is not None:
        own: yaml_text.Path = ("strategies", strategy, *path)
        base_depth = next((n for n in range(len(path), -1, -1) if path[:n] in document.values), 0)
        if own[: 2 + base_depth] in document.values and path:
            path = own
    return Fault(*document.locate(path, key=problem.key), problem.message)
