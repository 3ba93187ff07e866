"""The pytest plugin, in a project of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A fresh project that uses the plugin."""
    pytester.makeconftest('pytest_plugins = ["airflow_ibkr_plugin.testing.pytest_plugin"]')
    pytester.makeini("[pytest]\naddopts = --strict-markers")
    return pytester


def test_a_stranger_trades_in_a_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys
        import ib_insync as ibi
        import pytest

        @pytest.fixture
        def ib(ibkr_gateway):
            ib = ibi.IB()
            ib.connect("127.0.0.1", ibkr_gateway.port, clientId=1)
            yield ib
            ib.disconnect()

        def test_buys(ib, ibkr_gateway):
            trade = ib.placeOrder(ibi.Stock("AAPL", "SMART", "USD"), ibi.MarketOrder("BUY", 10, orderRef="mine"))
            while not trade.isDone():
                assert ib.waitOnUpdate(timeout=10)
            assert ibkr_gateway.control("orders", order_ref="mine")["orders"][0]["status"] == "Filled"
            assert ib.reqCurrentTime().isoformat() == "2026-11-20T16:00:00+00:00"

        def test_another_gateway(ibkr_gateway):
            assert ibkr_gateway.control("status")["orders"] == 0

        def test_it_does_not_bring_airflow(ibkr_gateway):
            assert "airflow" not in sys.modules
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=3)


def test_options_come_from_markers_and_parameters(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from datetime import UTC, datetime
        import pytest

        pytestmark = pytest.mark.ibkr_gateway(account="DU7654321", seed=8)

        def test_module(ibkr_gateway):
            assert ibkr_gateway.account == "DU7654321"

        @pytest.mark.ibkr_gateway(account="DU1111111", clock=None, ibc_port=0)
        def test_nearest(ibkr_gateway):
            status = ibkr_gateway.control("status")
            assert (status["accounts"], status["clock"]["simulated"]) == (["DU1111111"], False)
            assert ibkr_gateway.ibc_port

        @pytest.mark.parametrize("ibkr_gateway", [{"clock": datetime(2027, 1, 4, tzinfo=UTC)}], indirect=True)
        def test_parameter(ibkr_gateway):
            assert ibkr_gateway.control("clock")["now"] == "2027-01-04T00:00:00+00:00"
            assert ibkr_gateway.account == "DU7654321"
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=3)


def test_an_option_that_is_none_is_named(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.ibkr_gateway(sead=8)
        def test_it(ibkr_gateway):
            pass
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ibkr_gateway has no option sead; there are *seed*"])


def test_it_is_not_loaded_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(ibkr_gateway): pass")
    pytester.runpytest_subprocess().assert_outcomes(errors=1)
