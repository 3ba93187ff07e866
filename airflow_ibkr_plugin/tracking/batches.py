"""Rows of the outbox -> requests to MLflow, within the limits of one request. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from airflow_ibkr_plugin.tracking.records import Kind

# Limits of MLflow's log-batch (mlflow.utils.validation): 1000 entities, of these 100 params and 100 tags; and 1 MB.
MAX_ENTITIES = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
# Below 1 MB, because the request holds more than the entities and the client escapes what is not ASCII.
MAX_BYTES = 900_000


class Row(Protocol):
    """What is read of a row of the outbox."""

    id: int
    kind: str
    payload: Any


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class MetricPoint:
    """One point of a metric; `ms` is its time in milliseconds since the epoch."""

    name: str
    value: float
    ms: int
    step: int


@dataclass
class Batch:
    """One log-batch request."""

    metrics: list[MetricPoint] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def entities(self) -> int:
        """How many params, tags and points of metrics it holds."""
        return len(self.metrics) + len(self.params) + len(self.tags)

    def is_full(self, kind: Kind) -> bool:
        """Whether it can take no further entity of this kind."""
        if kind is Kind.PARAMS and len(self.params) == MAX_PARAMS:
            return True
        if kind is Kind.TAGS and len(self.tags) == MAX_TAGS:
            return True
        return self.entities == MAX_ENTITIES


BATCHED = frozenset({Kind.PARAMS, Kind.METRICS, Kind.TAGS})


def group(rows: Iterable[R]) -> Iterator[list[R]]:
    """Cut rows, in their order, into runs that may be sent together.

    Rows of params, metrics and tags go together; any other row stands alone. A row that gives a parameter another
    value than a row before it starts a new group, so that MLflow refuses that row and not its neighbours.
    """
    open_: list[R] = []
    params: dict[str, str] = {}
    for row in rows:
        batched = row.kind in BATCHED
        values = row.payload["values"] if row.kind == Kind.PARAMS else {}
        clash = any(params.get(name, value) != value for name, value in values.items())
        if open_ and (clash or not batched):
            yield open_
            open_, params = [], {}
        if batched:
            open_.append(row)
            params |= values
        else:
            yield [row]
    if open_:
        yield open_


def batches(rows: Iterable[Row]) -> Iterator[Batch]:
    """The requests for one group of params, metrics and tags rows, as few as the limits allow.

    The last value of a tag wins.
    """
    metrics: list[MetricPoint] = []
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    for row in rows:
        values = row.payload["values"]
        if row.kind == Kind.METRICS:
            metrics += [MetricPoint(n, v, row.payload["ms"], row.payload["step"]) for n, v in values.items()]
        elif row.kind == Kind.PARAMS:
            params |= values
        else:
            tags |= values
    entities: list[tuple[Kind, MetricPoint | tuple[str, str]]] = [
        *((Kind.PARAMS, item) for item in params.items()),
        *((Kind.TAGS, item) for item in tags.items()),
        *((Kind.METRICS, point) for point in metrics),
    ]
    batch, size = Batch(), 0
    for kind, entity in entities:
        weight = _weight(entity)
        if batch.is_full(kind) or size + weight > MAX_BYTES:
            yield batch
            batch, size = Batch(), 0
        size += weight
        if isinstance(entity, MetricPoint):
            batch.metrics.append(entity)
        else:
            name, value = entity
            (batch.params if kind is Kind.PARAMS else batch.tags)[name] = value
    if batch.entities:
        yield batch


def _weight(entity: MetricPoint | tuple[str, str]) -> int:
    """At most this many bytes in the request: what is not ASCII is escaped; 100 for names of fields."""
    name, value = (entity.name, "") if isinstance(entity, MetricPoint) else entity
    return len(json.dumps([name, value])) + 100
