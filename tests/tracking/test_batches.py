from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.tracking.batches import Batch, MetricPoint, batches, group
from airflow_ibkr_plugin.tracking.records import Kind


@dataclass
class Row:
    id: int
    kind: str
    payload: dict[str, Any]


names = st.sampled_from(["a", "b", "c", "d"])
params = st.dictionaries(names, st.sampled_from(["1", "2"]), min_size=1).map(lambda v: (Kind.PARAMS, {"values": v}))
tags = st.dictionaries(names, st.sampled_from(["x", "y"]), min_size=1).map(lambda v: (Kind.TAGS, {"values": v}))
metrics = st.dictionaries(names, st.floats(-1, 1), min_size=1).map(
    lambda v: (Kind.METRICS, {"values": v, "ms": 1, "step": 0})
)
others = st.sampled_from([(Kind.BEGIN, {}), (Kind.ARTIFACT, {}), (Kind.END, {})])
rows = st.lists(st.one_of(params, tags, metrics, others)).map(
    lambda drawn: [Row(i, kind, payload) for i, (kind, payload) in enumerate(drawn)]
)


@given(rows)
def test_groups_keep_every_row_in_order_and_no_parameter_twice(drawn: list[Row]) -> None:
    groups = list(group(drawn))
    assert [row.id for together in groups for row in together] == [row.id for row in drawn]
    for together in groups:
        if len(together) > 1:
            assert all(row.kind in (Kind.PARAMS, Kind.TAGS, Kind.METRICS) for row in together)
        given_values: dict[str, str] = {}
        for row in together:
            if row.kind == Kind.PARAMS:
                for name, value in row.payload["values"].items():
                    assert given_values.setdefault(name, value) == value


def test_the_last_value_of_a_tag_wins() -> None:
    sent = list(batches([Row(1, Kind.TAGS, {"values": {"t": "old"}}), Row(2, Kind.TAGS, {"values": {"t": "new"}})]))
    assert sent == [Batch(tags={"t": "new"})]


def test_one_request_where_one_is_enough() -> None:
    sent = list(
        batches(
            [
                Row(1, Kind.PARAMS, {"values": {"p": "1"}}),
                Row(2, Kind.TAGS, {"values": {"t": "2"}}),
                Row(3, Kind.METRICS, {"values": {"m": 3.0}, "ms": 5, "step": 1}),
            ]
        )
    )
    assert sent == [Batch(params={"p": "1"}, tags={"t": "2"}, metrics=[MetricPoint("m", 3.0, 5, 1)])]


def test_a_request_stays_within_mlflows_limits() -> None:
    many = [
        Row(1, Kind.PARAMS, {"values": {f"p{i}": "é" * 6000 for i in range(250)}}),
        Row(2, Kind.TAGS, {"values": {f"t{i}": "x" * 8000 for i in range(250)}}),
        Row(3, Kind.METRICS, {"values": {f"m{i}": float(i) for i in range(2500)}, "ms": 5, "step": 1}),
    ]
    sent = list(batches(many))
    assert {n for b in sent for n in b.params} == set(many[0].payload["values"])
    assert {n for b in sent for n in b.tags} == set(many[1].payload["values"])
    assert [m.name for b in sent for m in b.metrics] == list(many[2].payload["values"])
    for batch in sent:
        assert len(batch.params) <= 100
        assert len(batch.tags) <= 100
        assert batch.entities <= 1000
        assert len(json.dumps([batch.params, batch.tags, [vars(m) for m in batch.metrics]])) < 1_000_000
