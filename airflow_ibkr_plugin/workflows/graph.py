"""Who needs whom: cycles, ancestors, and the task whose result another one builds on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Needs = Mapping[str, Sequence[str]]


def find_cycles(needs: Needs) -> list[list[str]]:
    """Each cycle once, as the path that walks it: `["a", "b", "a"]` where a needs b and b needs a."""
    cycles: list[list[str]] = []
    done: set[str] = set()

    def visit(task: str, path: list[str]) -> None:
        if task in path:
            cycles.append([*path[path.index(task) :], task])
            return
        if task in done:
            return
        for upstream in needs.get(task, ()):
            if upstream in needs:
                visit(upstream, [*path, task])
        done.add(task)

    for task in needs:
        visit(task, [])
    return cycles


def upstream_levels(task: str, needs: Needs) -> Iterator[list[str]]:
    """The tasks before this one, nearest first: what it needs, then what those need, and so on."""
    seen = {task}
    level = [task]
    while level:
        following = [n for current in level for n in needs.get(current, ()) if n in needs and n not in seen]
        level = list(dict.fromkeys(following))
        seen.update(level)
        if level:
            yield level


def upstream(task: str, needs: Needs) -> set[str]:
    """All tasks before this one."""
    return {name for level in upstream_levels(task, needs) for name in level}


def input_candidates(task: str, kind: str, needs: Needs, types: Mapping[str, str]) -> list[str]:
    """Tasks of type `kind` on the nearest level before `task` that has any; one means the choice is clear."""
    for level in upstream_levels(task, needs):
        if found := [name for name in level if types.get(name) == kind]:
            return found
    return []
