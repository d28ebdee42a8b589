"""Hooks: who is called, in which order, and whose exceptions are felt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contracts import Kind
from core.managers.hooks_manager import BUILT_IN, HooksManager


@pytest.fixture
def hooks() -> HooksManager:
    return started()


def started() -> HooksManager:
    # It uses no other manager.
    manager = HooksManager(None)  # type: ignore[arg-type]
    manager.initialize()
    manager.declare_hook("gate", Kind.GATE)
    manager.declare_hook("notice")
    return manager


def failing(data: Any) -> None:
    raise RuntimeError("a fault of the listener")


@given(st.lists(st.integers(-5, 5), max_size=20))
def test_callbacks_run_by_priority_and_then_in_the_order_of_registration(priorities: list[int]) -> None:
    hooks = started()
    for number, priority in enumerate(priorities):
        hooks.register_hook("notice", lambda data, who=(priority, number): who, priority)
    assert hooks.trigger("notice") == sorted((priority, number) for number, priority in enumerate(priorities))


def test_callbacks_get_the_data_and_their_answers_come_back(hooks: HooksManager) -> None:
    hooks.register_hook("notice", lambda data: data + 1)
    hooks.register_hook("notice", lambda data: data * 10)
    assert hooks.trigger("notice", 4) == [5, 40]
    assert hooks.trigger("gate", 4) == []


def test_the_usage_of_the_managers_overview_works(hooks: HooksManager) -> None:
    seen: list[Any] = []
    hooks.register_hook("before_request", seen.append)
    hooks.register_hook("after_module_init", seen.append)
    hooks.declare_hook("custom_event")
    hooks.register_hook("custom_event", seen.append)
    hooks.trigger("custom_event", data={"a": 1})
    assert seen == [{"a": 1}]


@pytest.mark.parametrize(("context", "expected"), [(None, ["all"]), ("/transfers", ["all", "transfers"]), ("/wallets", ["all"])])
def test_a_context_narrows_who_is_called(context: str | None, expected: list[str], hooks: HooksManager) -> None:
    hooks.register_hook("notice", lambda data: "all")
    hooks.register_hook("notice", lambda data: "transfers", context="/transfers")
    assert hooks.trigger("notice", context=context) == expected


def test_a_gate_stops_what_is_going_on(hooks: HooksManager) -> None:
    seen: list[Any] = []
    hooks.register_hook("gate", failing, priority=1)
    hooks.register_hook("gate", seen.append, priority=2)
    with pytest.raises(RuntimeError, match="a fault of the listener"):
        hooks.trigger("gate", "data")
    assert seen == []


def test_a_notice_is_contained_and_the_others_still_run(hooks: HooksManager) -> None:
    seen: list[Any] = []
    hooks.register_hook("notice", failing, priority=1)
    hooks.register_hook("notice", seen.append, priority=2)
    assert hooks.trigger("notice", "data") == [None, None]
    assert seen == ["data"]


@pytest.mark.parametrize(
    "use", [lambda hooks: hooks.trigger("typo"), lambda hooks: hooks.register_hook("typo", print), lambda hooks: hooks.trigger("")]
)
def test_an_undeclared_name_fails_by_name(use: Callable[[HooksManager], Any], hooks: HooksManager) -> None:
    with pytest.raises(ValueError, match=r"hook '(typo)?' is not declared"):
        use(hooks)


def test_a_name_is_declared_once_as_one_kind(hooks: HooksManager) -> None:
    hooks.declare_hook("gate", Kind.GATE)
    with pytest.raises(ValueError, match="hook 'gate' is declared already, as a gate"):
        hooks.declare_hook("gate", Kind.NOTICE)
    with pytest.raises(ValueError, match="as a gate"):
        hooks.declare_hook("before_request")


def test_whether_anyone_listens_can_be_asked(hooks: HooksManager) -> None:
    assert not hooks.has_callbacks("notice")
    hooks.register_hook("notice", print)
    assert hooks.has_callbacks("notice")
    assert not hooks.has_callbacks("never heard of")


def test_before_a_request_is_a_gate_and_what_has_happened_is_a_notice() -> None:
    assert {name for name, kind in BUILT_IN.items() if kind is Kind.GATE} == {"before_request"}


def test_registering_from_many_threads_loses_nobody(hooks: HooksManager) -> None:
    def register() -> None:
        for number in range(50):
            hooks.register_hook("notice", lambda data: 1, priority=number % 5)

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hooks.trigger("notice")) == 400


def test_health_counts_and_a_disposed_manager_calls_nobody(hooks: HooksManager) -> None:
    hooks.register_hook("notice", failing)
    assert (hooks.health_check()["registered"], hooks.health_check()["declared"]) == (1, len(BUILT_IN) + 2)
    hooks.dispose()
    assert hooks.trigger("notice") == []
