"""Every fault of a workflow file: found, placed by line and column, and told with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ibkr_plugin.errors import ConfigError
from airflow_ibkr_plugin.workflows.checks import Checker
from airflow_ibkr_plugin.workflows.loader import Loaded, Override, check_override, load_file, load_folder, load_text
from airflow_ibkr_plugin.workflows.schema import MAX_TASKS

FILE = Path("w.yaml")
GOOD = """\
id: small
symbols: [SPY]
tasks:
  fetch:
    type: fetch
    for_each: symbol
  act:
    type: act
    for_each: symbol
    needs: [fetch]
risk:
  order_notional: {max: 1000}
"""


def one(text: str | bytes, checker: Checker, overrides: dict[str, Override] | None = None) -> Loaded:
    content = text if isinstance(text, bytes) else text.encode()
    (loaded,) = load_text(content, FILE, checker, overrides)
    return loaded


def lines(loaded: Loaded) -> list[str]:
    return str(loaded.error.message).splitlines() if loaded.error else []


def test_a_sound_file_is_a_workflow_with_its_defaults(checker: Checker) -> None:
    loaded = one(GOOD, checker)
    assert loaded.error is None
    workflow = loaded.workflow
    assert workflow is not None
    assert (workflow.id, workflow.mode, workflow.schedule, workflow.symbols) == ("small", "paper", None, ("SPY",))
    assert workflow.tasks["act"].execution["retries"] == 2
    assert workflow.config_hash == one(GOOD.replace("[SPY]", "\n  - 'SPY'  # same"), checker).workflow.config_hash
    assert workflow.config_hash != one(GOOD.replace("1000", "1001"), checker).workflow.config_hash


def test_the_editors_schema_line_is_no_part_of_the_configuration(checker: Checker) -> None:
    loaded = one("$schema: https://example.com/workflow.json\n" + GOOD, checker)
    plain = one(GOOD, checker)
    assert loaded.workflow is not None
    assert plain.workflow is not None
    assert loaded.workflow.config == plain.workflow.config


FAULTS = {
    "refused as YAML": (GOOD.replace("[SPY]", "[SPY], [X"), "w.yaml:2:15: "),
    "refused value": (GOOD.replace("1000", ".inf"), "w.yaml:12:25: .inf is not a finite number"),
    "not a mapping": ("- a\n", "w.yaml:1:1: the file is not a mapping"),
    "fraction for a whole number": (GOOD + "defaults: {retries: 2.0}\n", "w.yaml:13:21: 2.0 is not a whole number"),
    "line end in an id": (GOOD.replace("small", '"small\\n"'), "w.yaml:1:5: 'small\\n' is no id"),
    "line end in a task id": (
        GOOD.replace("  fetch:", '  "a\\n": {type: report}\n  fetch:'),
        "w.yaml:4:3: 'a\\n' is no id",
    ),
    "line end in a connection": (GOOD + 'connection: "a\\n"\n', "w.yaml:13:13: 'a\\n' does not have the form"),
    "nothing as symbol": (
        GOOD.replace("SPY", "NULL"),
        "w.yaml:2:11: nothing stands here, where text or a mapping must.",
    ),
    "nothing as number": (GOOD.replace(" 1000", ""), "w.yaml:12:24: nothing stands here, where a number must."),
    "too many tasks": (
        "id: many\ntasks:\n  t0: {type: report}\n"
        + "".join(f"  t{n + 1}: {{type: report, needs: [t{n}]}}\n" for n in reversed(range(MAX_TASKS * 8))),
        f"w.yaml:3:3: {MAX_TASKS * 8 + 1} entries are too many; {MAX_TASKS} are allowed.",
    ),
    "unknown field": (GOOD + "retires: 3\n", "w.yaml:13:1: unknown field 'retires'."),
    "unknown field, near": (
        GOOD + "calender: XNYS\n",
        "w.yaml:13:1: unknown field 'calender'. Did you mean 'calendar'?",
    ),
    "missing id": (GOOD.replace("id: small\n", ""), "w.yaml:1:1: the field 'id' is missing"),
    "missing type": (GOOD.replace("    type: fetch\n", ""), "w.yaml:5:5: the field 'type' is missing"),
    "bad id": (GOOD.replace("small", "Small-1"), "w.yaml:1:5: 'Small-1' is no id: use at most 64 lower-case"),
    "bad task id": (GOOD.replace("  fetch:", "  Fetch:"), "w.yaml:4:3: 'Fetch' is no id"),
    "reserved id": (GOOD.replace("  act:", "  symbol:"), "w.yaml:7:3: the id 'symbol' is the builder's own"),
    "wrong type": (GOOD + "tags: x\n", "w.yaml:13:7: 'x' is not a list"),
    "text wanted": (GOOD + "owner: 7\n", "w.yaml:13:8: 7 is not text. Put it in quotes"),
    "out of range": (GOOD + "defaults: {retries: 21}\n", "w.yaml:13:21: 21 is greater than the maximum of 20"),
    "empty mapping": (GOOD + "  trading_hours:\n", "w.yaml:13:17: nothing stands here; write {}"),
    "mode": (GOOD + "mode: real\n", "w.yaml:13:7: 'real' is not allowed here. Known: live, paper."),
    "task type": (
        GOOD.replace("type: act", "type: acct"),
        "w.yaml:8:11: 'acct' is not allowed here. Did you mean 'act'?",
    ),
    "rule": (
        GOOD.replace("order_notional", "order_notionl"),
        "w.yaml:12:3: unknown risk rule 'order_notionl'. Did you mean",
    ),
    "rule's parameter": (GOOD.replace("max:", "maxx:"), "w.yaml:12:20: unknown field 'maxx'. Did you mean 'max'?"),
    "rule's missing parameter": (GOOD.replace("{max: 1000}", "{}"), "w.yaml:12:19: the field 'max' is missing"),
    "package that failed": (
        GOOD + "package: momentum\n",
        "w.yaml:13:10: the strategy package 'momentum' is not loaded: ImportError: no module named talib.",
    ),
    "package unknown": (GOOD + "package: x\n", "w.yaml:13:10: 'x' is not allowed here. Known: builtin."),
    "zone": (
        GOOD + "time_zone: America/NewYork\n",
        "w.yaml:13:12: no time zone is named 'America/NewYork'. Did you mean 'America/New_York'",
    ),
    "zone that escapes": (GOOD + "time_zone: ../../etc/passwd\n", "w.yaml:13:12: no time zone is named"),
    "cron": (GOOD + 'schedule: "61 * * * *"\n', "w.yaml:13:11: '61 * * * *' is neither cron"),
    "six fields": (GOOD + 'schedule: "* * * * * *"\n', "w.yaml:13:11: '* * * * * *' is neither cron"),
    "date": (GOOD + "start_date: 2024-02-30\n", "w.yaml:13:13: '2024-02-30' is no date"),
    "calendar": (GOOD + "calendar: XNYZ\n", "w.yaml:13:11: no exchange calendar is named 'XNYZ'. Did you mean"),
    "symbol": (GOOD.replace("SPY", "spy"), "w.yaml:2:11: 'spy' is not a symbol. Write a stock as SPY"),
    "symbol's field": (
        GOOD.replace("SPY", "{symbol: SPY, curency: USD}"),
        "w.yaml:2:25: unknown field 'curency'. Did you mean",
    ),
    "same symbol": (GOOD.replace("SPY", "SPY, {symbol: SPY, exchange: ARCA}"), "w.yaml:2:16: SPY is here twice"),
    "no symbols": (GOOD.replace("symbols: [SPY]\n", ""), "w.yaml:4:5: a fetch task needs symbols"),
    "unknown need": (
        GOOD.replace("[fetch]", "[fetsh]"),
        "w.yaml:10:13: no task is named 'fetsh'. Did you mean 'fetch'?",
    ),
    "no for_each": (
        GOOD.replace("type: act\n    for_each: symbol", "type: act"),
        "w.yaml:8:5: a act task runs for each",
    ),
    "for_each too much": (
        GOOD.replace("type: act", "type: report"),
        "w.yaml:9:5: a report task runs once for all symbols; remove `for_each`.",
    ),
    "no input": (GOOD.replace("    needs: [fetch]\n", ""), "w.yaml:8:5: a act task builds on a fetch task; name one"),
    "input of the wrong type": (
        GOOD.replace("needs: [fetch]", "needs: [fetch]\n    parameters: {source_task: act}"),
        "w.yaml:11:31: 'act' is no fetch task before this one",
    ),
    "input that does not come before": (
        GOOD.replace("  act:", "  late: {type: fetch, for_each: symbol}\n  act:").replace(
            "needs: [fetch]", "needs: [fetch]\n    parameters: {source_task: late}"
        ),
        "w.yaml:12:31: 'late' is no fetch task before this one",
    ),
    "statement of a template": (GOOD + "tags: [a, '{% raw %}']\n", "w.yaml:13:11: templates ({{ }}) are not allowed"),
    "comment of a template": (GOOD + "owner: '{# x #}'\n", "w.yaml:13:8: templates ({{ }}) are not allowed"),
    "template as a key": (
        GOOD.replace("  act:", "  r: {type: report, parameters: {'{{ x }}': 1}}\n  act:"),
        "w.yaml:7:34: templates ({{ }}) are not allowed",
    ),
    "template": (GOOD + "description: '{{ conn.x.password }}'\n", "w.yaml:13:14: templates ({{ }}) are not allowed"),
    "strategies": (GOOD + "strategies: {}\n", "w.yaml:13:13: {} should be non-empty"),
    "strategies that are a list": (GOOD + "strategies: [a]\n", "w.yaml:13:13: ['a'] is not a mapping"),
    "strategy without a patch": (GOOD + "strategies: {a: }\n", "w.yaml:13:16: nothing stands here; write {}"),
    "strategy's name": (GOOD + "strategies: {Small-1: {}}\n", "w.yaml:13:14: 'Small-1' is no id"),
    "id beside strategies": (
        GOOD.replace("small", "Small-1") + "strategies: {a: {}}\n",
        "w.yaml:1:5: 'Small-1' is no id",
    ),
    "strategy id": (GOOD + "strategies: {a: {id: b}}\n", "w.yaml:13:22: this field cannot stand here"),
}


# Here a second fault follows from the first, or the same is wrong in two places.
TWOFOLD = {"missing type", "bad task id", "rule's parameter", "symbol's field", "no symbols", "no for_each"}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_once_with_its_place_and_its_remedy(name: str, checker: Checker) -> None:
    text, expected = FAULTS[name]
    loaded = one(text, checker)
    assert loaded.workflow is None
    told = lines(loaded)
    assert [line for line in told if line.startswith(expected)], told
    assert len(told) == (2 if name in TWOFOLD else 1), told


def test_two_inputs_must_be_told_apart_by_name(checker: Checker) -> None:
    two = GOOD.replace("  act:", "  other:\n    type: fetch\n    for_each: symbol\n  act:").replace(
        "[fetch]", "[fetch, other]"
    )
    assert lines(one(two, checker)) == ["w.yaml:13:12: fetch, other are all fetch tasks; say which with `source_task`."]
    named = two.replace("needs: [fetch, other]", "needs: [fetch, other]\n    parameters: {source_task: other}")
    assert one(named, checker).error is None


def test_all_faults_are_told_at_once_in_the_order_of_the_file(checker: Checker) -> None:
    text = GOOD.replace("small", "Small").replace("[SPY]", "[spy]").replace("[fetch]", "[x]").replace("max:", "min:")
    places = [line.split(": ")[0] for line in lines(one(text, checker))]
    assert places == ["w.yaml:1:5", "w.yaml:2:11", "w.yaml:10:13", "w.yaml:12:19", "w.yaml:12:20"]


def test_a_cycle_is_told_with_its_path(checker: Checker) -> None:
    text = "id: c\ntasks:\n" + "".join(
        f"  {name}: {{type: report, needs: [{need}]}}\n" for name, need in (("a", "b"), ("b", "c"), ("c", "a"))
    )
    assert lines(one(text, checker)) == ["w.yaml:3:28: the tasks need each other in a circle: a -> b -> c -> a."]


def test_a_symbol_task_after_a_join_is_refused(checker: Checker) -> None:
    text = GOOD.replace("  act:", "  join: {type: report, needs: [fetch]}\n  act:").replace(
        "[fetch]\nrisk", "[fetch, join]\nrisk"
    )
    assert lines(one(text, checker))[0].startswith(
        "w.yaml:11:12: it runs for each symbol and needs 'join', which waits"
    )


TEMPLATE = """\
id: template
tasks:
  fetch: {type: fetch, for_each: symbol}
risk:
  order_notional: {max: 1000}
strategies:
  calm:
    symbols: [SPY]
  wild:
    symbols: [QQQ]
    risk: {order_notional: {max: 5000}}
"""


def test_one_template_serves_several_strategies(checker: Checker) -> None:
    calm, wild = load_text(TEMPLATE.encode(), FILE, checker)
    assert calm.workflow is not None
    assert wild.workflow is not None
    assert (calm.strategy, calm.workflow.risk["order_notional"]) == ("calm", {"max": 1000})
    assert (wild.strategy, wild.workflow.risk["order_notional"]) == ("wild", {"max": 5000})
    assert "strategies" not in wild.workflow.config


def test_a_fault_in_one_strategy_is_placed_there_and_leaves_the_other(checker: Checker) -> None:
    calm, wild = load_text(TEMPLATE.replace("5000", "-1").encode(), FILE, checker)
    assert calm.error is None
    assert lines(wild) == ["w.yaml:11:34: -1 is less than or equal to the minimum of 0."]


def test_a_fault_that_the_strategies_share_is_placed_where_they_share_it(checker: Checker) -> None:
    calm, wild = load_text(TEMPLATE.replace("1000", "-1").encode(), FILE, checker)
    assert lines(calm) == ["w.yaml:5:25: -1 is less than or equal to the minimum of 0."]
    assert wild.error is None  # its own limit replaces the shared one


@pytest.mark.parametrize("patch", ["{id: x}", "[]"])
def test_a_strategy_whose_patch_cannot_be_leaves_the_other(patch: str, checker: Checker) -> None:
    calm, wild = load_text(TEMPLATE.replace("\n    symbols: [SPY]", f" {patch}").encode(), FILE, checker)
    assert [line for line in lines(calm) if line.startswith("w.yaml:7:")], lines(calm)
    assert wild.error is None


def test_an_override_wins_over_the_file(checker: Checker) -> None:
    override = Override(version=3, parameters={"symbols": ["IBM"], "risk": {"order_notional": {"max": 7}}})
    workflow = one(GOOD, checker, {"small": override, "other": Override(version=1, parameters={"id": "x"})}).workflow
    assert workflow is not None
    assert (workflow.symbols, workflow.risk["order_notional"]) == (("IBM",), {"max": 7})


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"mode": "live"}, "w.yaml:1:1: override 3 of 'small': 'mode' cannot be overridden"),
        (
            {"risk": {"order_notional": None}},
            "w.yaml:1:1: override 3 of 'small': 'risk.order_notional' cannot be removed",
        ),
        (
            {"risk": {"order_notional": {"max": "x"}}},
            "w.yaml:12:25: override 3 of 'small': risk.order_notional.max: 'x' is not a number",
        ),
        (
            {"tasks": {"fetch": None}},
            "w.yaml:10:13: override 3 of 'small': tasks.act.needs.0: no task is named 'fetch'",
        ),
        ({"symbols": ["{{ x }}"]}, "w.yaml:2:11: override 3 of 'small': symbols.0: "),
    ],
)
def test_an_override_that_does_not_fit_says_which_field(parameters: dict, expected: str, checker: Checker) -> None:
    loaded = one(GOOD, checker, {"small": Override(version=3, parameters=parameters)})
    assert loaded.strategy == "small"
    assert lines(loaded)[0].startswith(expected), lines(loaded)
    with pytest.raises(ConfigError):
        check_override(GOOD.encode(), FILE, "small", parameters, checker)


def test_a_folder_is_read_file_by_file_and_clashing_names_are_refused_on_both_sides(
    tmp_path: Path, checker: Checker
) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yml").write_text(GOOD)
    (tmp_path / "c.yaml").write_text(GOOD.replace("small", "third"))
    (tmp_path / "notes.txt").write_text("not a workflow")
    a, b, c = load_folder(tmp_path, checker)
    assert "the strategy 'small' is in" in lines(a)[0]
    assert str(tmp_path / "b.yml") in lines(a)[0]
    assert str(tmp_path / "a.yaml") in lines(b)[0]
    assert c.error is None


def test_a_folder_or_file_that_cannot_be_read_says_so(tmp_path: Path, checker: Checker) -> None:
    with pytest.raises(ConfigError, match="workflows_folder"):
        load_folder(tmp_path / "none", checker)
    (loaded,) = load_file(tmp_path / "none.yaml", checker)
    assert "none.yaml:1:1: the file cannot be read: No such file" in lines(loaded)[0]


@given(st.binary(max_size=200) | st.text(alphabet="abi:d[]{}&*!#-'\"\n\t ,1|>%@`", max_size=60).map(str.encode))
def test_whatever_the_bytes_there_is_a_fault_with_a_place_and_no_exception(checker: Checker, content: bytes) -> None:
    for loaded in load_text(content, FILE, checker):
        assert loaded.faults
        assert all(fault.line >= 1 and fault.column >= 1 and fault.message for fault in loaded.faults)


@pytest.mark.parametrize("name", ["XNYS", "NYSE", "forex", "CME Globex Equity"])
def test_every_calendar_that_market_hours_know_can_be_named(checker: Checker, name: str) -> None:
    text = f"id: w\ncalendar: {name}\nsymbols: [SPY]\ntasks:\n  p: {{type: portfolio}}\n"
    (loaded,) = load_text(text.encode(), Path("w.yaml"), checker)
    assert loaded.error is None
