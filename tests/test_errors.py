"""Every error crosses process borders whole: Airflow pickles exceptions, and triggers hand them on by name."""

from __future__ import annotations

import inspect
import pickle

import pytest

from airflow_ibkr_plugin import errors
from airflow_ibkr_plugin.errors import Family, IBKRPluginError

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, IBKRPluginError)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_error_survives_pickling(cls: type[IBKRPluginError]) -> None:
    error = cls("what happened", remedy="Do this.", retry_after=7.0)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (again.message, again.remedy, again.retry_after) == ("what happened", "Do this.", 7.0)
    assert str(again) == "what happened Do this."


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_names_a_delay_only_where_it_is_kept(cls: type[IBKRPluginError]) -> None:
    if cls("x").retry_after is not None:
        assert cls.family is Family.RETRY_AFTER


def test_broker_error_keeps_its_code() -> None:
    assert pickle.loads(pickle.dumps(errors.OrderRejected("no", code=201))).code == 201
