import pytest

from airflow_ibkr_plugin.broker.accounts import check_money, choose_account, source_of
from airflow_ibkr_plugin.broker.spec import GatewaySpec
from airflow_ibkr_plugin.errors import ConfigError, LiveTradingRefused


def spec(*, account: str = "", live: bool = False) -> GatewaySpec:
    return GatewaySpec(
        conn_id="ibkr_test", host="gateway", port=4002, client_ids=range(10, 12), account=account, live=live
    )


def test_the_only_account_needs_no_name() -> None:
    assert choose_account(spec(), ["DU1"]) == "DU1"


def test_several_accounts_need_a_name() -> None:
    with pytest.raises(ConfigError, match="DU1, DU2"):
        choose_account(spec(), ["DU1", "DU2"])
    assert choose_account(spec(account="DU2"), ["DU1", "DU2"]) == "DU2"


def test_an_account_of_another_login_is_refused() -> None:
    with pytest.raises(ConfigError, match="DU3"):
        choose_account(spec(account="DU3"), ["DU1", "DU2"])


@pytest.mark.parametrize(
    ("live", "account", "simulated"),
    [(False, "U1234567", False), (False, "U1234567", True), (True, "DU1234567", False), (True, "U1234567", True)],
)
def test_money_of_the_other_kind_is_refused(live: bool, account: str, simulated: bool) -> None:
    with pytest.raises(LiveTradingRefused, match="ibkr_test"):
        check_money(spec(live=live), account, simulated=simulated)


def test_money_of_the_right_kind_passes_and_is_named() -> None:
    check_money(spec(), "DU1234567", simulated=True)
    check_money(spec(), "DF1234567", simulated=False)
    check_money(spec(live=True), "U1234567", simulated=False)

    assert source_of(spec(), simulated=True) == "simulator:ibkr_test"
    assert source_of(spec(), simulated=False) == "paper:ibkr_test"
    assert source_of(spec(live=True), simulated=False) == "live:ibkr_test"
