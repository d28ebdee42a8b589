"""Hooks: who is called, in which order, with what, and whose exceptions are felt."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import BaseModel
from typing_extensions import TypedDict

from core import context as request_context
from core.contracts import Kind, RequestFields
from core.managers.hooks_manager import BUILT_IN, HooksManager
from core.web.routing import Principal
from tests.support.client import unique
from tests.support.logs import logging_to
from tools.error_handling.errors import Conflict
from utils import deadline

QUEUE_MAX = 3
ROOT = Path(__file__).parents[3]


@pytest.fixture
def hooks() -> Iterator[HooksManager]:
    manager = started()
    yield manager
    manager.dispose()


def started() -> HooksManager:
    # Of the others it only needs the settings.
    manager = HooksManager(SimpleNamespace(config={"HOOK_QUEUE_MAX": QUEUE_MAX, "REQUEST_TIMEOUT": 4.0}))  # type: ignore[arg-type]
    manager.initialize()
    manager.declare_hook("gate", Kind.GATE)
    manager.declare_hook("notice")
    manager.declare_hook("later", asynchronous=True)
    return manager


def failing(data: Any) -> None:
    raise RuntimeError("a fault of the listener")


def count(metric: str, hook: str) -> float:
    return REGISTRY.get_sample_value(metric, {"hook": hook}) or 0


# Who is called, and in which order


Registrations = st.lists(st.tuples(st.integers(-5, 5), st.sampled_from([None, "one", "two"]), st.booleans()), max_size=20)


@given(Registrations, st.sampled_from([None, "one", "two", "three"]))
def test_those_of_the_context_run_by_priority_and_then_in_the_order_of_registration(
    registrations: list[tuple[int, str | None, bool]], context: str | None
) -> None:
    hooks = started()
    expected = []
    for number, (priority, only, leaves) in enumerate(registrations):

        def callback(data: Any, who: tuple[int, int] = (priority, number)) -> tuple[int, int]:
            return who

        hooks.register_hook("notice", callback, priority, only)
        if leaves:
            hooks.unregister_hook("notice", callback)
        elif only in (None, context):
            expected.append((priority, number))
    assert hooks.trigger("notice", context=context) == sorted(expected)


def test_callbacks_get_the_data_and_their_answers_come_back(hooks: HooksManager) -> None:
    hooks.register_hook("notice", lambda data: data + 1)
    hooks.register_hook("notice", lambda data: data * 10)
    assert hooks.trigger("notice", 4) == [5, 40]
    assert hooks.trigger("gate", 4) == []


def test_the_usage_of_the_managers_overview_works(hooks: HooksManager) -> None:
    seen: list[Any] = []
    validate_auth = setup_monitoring = on_custom = seen.append
    hooks.register_hook("before_request", validate_auth)
    hooks.register_hook("after_module_init", setup_monitoring)
    hooks.declare_hook("custom_event", payload=dict)
    hooks.register_hook("custom_event", on_custom)
    event_data = {"a": 1}
    hooks.trigger("custom_event", data=event_data)
    assert seen == [event_data]


@pytest.mark.parametrize(("context", "expected"), [(None, ["all"]), ("/transfers", ["all", "transfers"]), ("/wallets", ["all"])])
def test_a_context_narrows_who_is_called(context: str | None, expected: list[str], hooks: HooksManager) -> None:
    hooks.register_hook("notice", lambda data: "all")
    hooks.register_hook("notice", lambda data: "transfers", context="/transfers")
    assert hooks.trigger("notice", context=context) == expected


def test_who_unregisters_is_not_called_any_more_and_the_others_are(hooks: HooksManager) -> None:
    one: list[Any] = []
    two: list[Any] = []
    for context in (None, "here"):
        hooks.register_hook("notice", one.append, context=context)
    hooks.register_hook("notice", two.append)
    # A bound method is made anew at each look, and is still the same callback.
    hooks.unregister_hook("notice", one.append)
    hooks.unregister_hook("notice", one.append)
    hooks.trigger("notice", "data", context="here")
    assert (one, two) == ([], ["data"])
    hooks.unregister_hook("notice", two.append)
    assert not hooks.has_callbacks("notice")


def test_whether_anyone_listens_can_be_asked(hooks: HooksManager) -> None:
    assert not hooks.has_callbacks("notice")
    hooks.register_hook("notice", print)
    assert hooks.has_callbacks("notice")
    assert not hooks.has_callbacks("never heard of")


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


# Gates and notices


def test_a_gate_stops_what_is_going_on(hooks: HooksManager) -> None:
    seen: list[Any] = []
    refusal = Conflict("no", code="refused-by-a-plugin")

    def refuse(data: Any) -> None:
        raise refusal

    hooks.register_hook("gate", refuse, priority=1)
    hooks.register_hook("gate", seen.append, priority=2)
    with pytest.raises(Conflict) as caught:
        hooks.trigger("gate", "data")
    assert caught.value is refusal
    assert seen == []


def test_a_notice_is_contained_counted_and_logged_and_the_others_still_run(hooks: HooksManager, tmp_path: Path) -> None:
    seen: list[Any] = []
    before = count("credit_hook_failures_total", "notice")
    hooks.register_hook("notice", failing, priority=1)
    hooks.register_hook("notice", seen.append, priority=2)
    with logging_to(tmp_path) as logs:
        assert hooks.trigger("notice", "data") == [None, None]
        line = logs.lines()[0]
    assert (line["hook"], "a fault of the listener" in line["exception"]) == ("notice", True)
    assert seen == ["data"]
    assert count("credit_hook_failures_total", "notice") == before + 1
    assert hooks.health_check()["failed"] == 1


# Declarations


@pytest.mark.parametrize(
    "use",
    [
        lambda hooks: hooks.trigger("typo"),
        lambda hooks: hooks.register_hook("typo", print),
        lambda hooks: hooks.trigger(""),
    ],
)
def test_an_undeclared_name_fails_by_name(use: Callable[[HooksManager], Any], hooks: HooksManager) -> None:
    with pytest.raises(ValueError, match=r"hook '(typo)?' is not declared; declared are .*gate, later, notice"):
        use(hooks)


def test_a_mistyped_name_is_answered_with_the_one_that_was_meant(hooks: HooksManager) -> None:
    with pytest.raises(ValueError, match=r"'befor_request' is not declared \(did you mean 'before_request'\?\); declared are"):
        hooks.register_hook("befor_request", print)


def test_a_name_is_declared_once_as_one_kind(hooks: HooksManager) -> None:
    hooks.declare_hook("gate", Kind.GATE)
    with pytest.raises(ValueError, match="hook 'gate' is declared already, as a gate"):
        hooks.declare_hook("gate", Kind.NOTICE)
    with pytest.raises(ValueError, match="as a gate"):
        hooks.declare_hook("before_request")
    with pytest.raises(ValueError, match="as an asynchronous notice"):
        hooks.declare_hook("later")


def test_who_listens_may_declare_it_too_and_need_not_know_its_data(hooks: HooksManager) -> None:
    hooks.declare_hook("order_paid")
    hooks.register_hook("order_paid", print)
    hooks.declare_hook("order_paid", payload=int, doc="An order was paid.")
    hooks.declare_hook("order_paid")
    with pytest.raises(TypeError):
        hooks.trigger("order_paid", "x")
    with pytest.raises(ValueError, match=r"is declared already, with .*int.* as its data"):
        hooks.declare_hook("order_paid", payload=str)
    found, callbacks = {hook.name: (hook, callbacks) for hook, callbacks in hooks.hooks()}["order_paid"]
    assert (found.doc, found.payload, callbacks) == ("An order was paid.", int, 1)


@pytest.mark.parametrize("name", ["", "Upper", "a b", "a.b.c", ".a", "a.", "a:b", "1a", "a\n"])
def test_a_name_of_another_form_is_refused(name: str, hooks: HooksManager) -> None:
    with pytest.raises(ValueError, match="use lower case"):
        hooks.declare_hook(name)


def test_a_plugin_declares_events_of_its_own(hooks: HooksManager) -> None:
    seen: list[Any] = []
    hooks.declare_hook("hello.greeted", payload=str)
    hooks.register_hook("hello.greeted", seen.append)
    hooks.trigger("hello.greeted", "world")
    assert seen == ["world"]
    hooks.withdraw_hook("hello.greeted")
    hooks.unregister_hook("hello.greeted", seen.append)
    with pytest.raises(ValueError, match=r"'hello.greeted' is not declared"):
        hooks.trigger("hello.greeted", "world")
    hooks.declare_hook("hello.greeted", payload=int)
    assert hooks.trigger("hello.greeted", 1) == []


def test_a_gate_cannot_be_asynchronous(hooks: HooksManager) -> None:
    with pytest.raises(ValueError, match="cannot be asynchronous"):
        hooks.declare_hook("late_gate", Kind.GATE, asynchronous=True)


def test_before_a_request_is_a_gate_and_what_has_happened_is_a_notice() -> None:
    assert {hook.name for hook in BUILT_IN if hook.kind is Kind.GATE} == {"before_request"}
    assert all(hook.doc for hook in BUILT_IN)


# Payloads


class Paid(TypedDict):
    order: str
    amount: int


@dataclass
class Shipped:
    order: str


class Returned(BaseModel):
    order: str


PAYLOADS = [
    (str, "text", 7),
    (dict, {}, []),
    (Shipped, Shipped("o_1"), {"order": "o_1"}),
    (Returned, Returned(order="o_1"), {"order": "o_1"}),
    (Paid, {"order": "o_1", "amount": 5}, {"order": "o_1", "amount": "5"}),
    (Paid, {"order": "o_1", "amount": 5}, {"order": "o_1"}),
    (list[str], ["a"], ["a", 1]),
    (Shipped | None, None, "o_1"),
    (Shipped | None, Shipped("o_1"), {"order": "o_1"}),
]


@pytest.mark.parametrize("manner", [{"kind": Kind.GATE}, {"kind": Kind.NOTICE}, {"kind": Kind.NOTICE, "asynchronous": True}])
@pytest.mark.parametrize(("payload", "right", "wrong"), PAYLOADS)
def test_data_of_the_wrong_type_is_felt_where_it_was_triggered(
    payload: Any, right: Any, wrong: Any, manner: dict[str, Any], hooks: HooksManager
) -> None:
    seen: list[Any] = []
    hooks.declare_hook("typed", payload=payload, **manner)
    hooks.register_hook("typed", seen.append)
    hooks.trigger("typed", right)
    for each in (wrong, object()):
        with pytest.raises(TypeError, match="hook 'typed': the data must be"):
            hooks.trigger("typed", each)
    hooks.announce_stop()
    assert seen == [right]
    assert seen[0] is right


def test_the_complaint_names_the_field_and_shows_no_value(hooks: HooksManager) -> None:
    hooks.declare_hook("typed", payload=Paid)
    with pytest.raises(TypeError, match=r"the data must be Paid: order: missing; amount: int_type") as caught:
        hooks.trigger("typed", {"amount": "a secret"})
    assert "secret" not in str(caught.value)


def test_data_that_cannot_be_checked_is_refused_at_the_declaration(hooks: HooksManager) -> None:
    with pytest.raises(TypeError, match="hook 'typed': data cannot be checked"):
        hooks.declare_hook("typed", payload=list[threading.Thread])


def test_what_the_core_triggers_is_what_it_declares() -> None:
    hooks = started()
    hooks.trigger("before_request", None)
    hooks.trigger("before_request", Principal("u_1", "user", "s_1"))
    fields: RequestFields = {"request_id": "r", "method": "GET", "route": "/", "status": 200, "duration_ms": 0.1, "user_id": None}
    hooks.trigger("after_request", fields)
    hooks.trigger("session_revoked", ["s_1"])
    hooks.trigger("after_boot")
    with pytest.raises(TypeError):
        hooks.trigger("session_revoked", "s_1")


# Asynchronous notices


class Listener:
    """Keeps what it hears, and can be held."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, data: Any) -> None:
        self.began.set()
        assert self.go.wait(20)
        self.heard.append(data)


def test_an_asynchronous_notice_runs_beside_its_caller_in_the_order_of_the_triggers(hooks: HooksManager) -> None:
    listener, threads = Listener(), []
    hooks.register_hook("later", listener)
    hooks.register_hook("later", lambda data: threads.append(threading.current_thread().name))
    assert hooks.trigger("later", 0) == []
    assert listener.began.wait(10)
    for number in range(1, QUEUE_MAX + 1):
        hooks.trigger("later", number)
    assert (listener.heard, hooks.health_check()["queued"]) == ([], QUEUE_MAX)
    listener.go.set()
    hooks.announce_stop()
    assert listener.heard == list(range(QUEUE_MAX + 1))
    assert set(threads) == {"hook-notices"}


def test_who_asked_is_carried_over_and_the_deadline_is_a_new_one(hooks: HooksManager) -> None:
    heard: list[Any] = []
    hooks.register_hook(
        "later", lambda data: heard.append((request_context.request_id.get(), request_context.actor_id.get(), deadline.remaining(99)))
    )

    def request(number: int) -> None:
        request_context.request_id.set(f"r-{number}")
        request_context.actor_id.set(f"u-{number}")
        deadline.start(0)
        hooks.trigger("later")

    for number in range(2):
        thread = threading.Thread(target=request, args=(number,))
        thread.start()
        thread.join()
    hooks.announce_stop()
    assert [entry[:2] for entry in heard] == [("r-0", "u-0"), ("r-1", "u-1")]
    assert all(3 < entry[2] <= 4 for entry in heard)


def test_a_full_queue_drops_counts_and_says_so_once(hooks: HooksManager, tmp_path: Path) -> None:
    listener, before = Listener(), count("credit_hook_dropped_total", "later")
    hooks.register_hook("later", listener)
    with logging_to(tmp_path) as logs:
        hooks.trigger("later", "running")
        assert listener.began.wait(10)
        for number in range(QUEUE_MAX + 5):
            hooks.trigger("later", number)
        assert [line["message"] for line in logs.lines()] == ["the queue of notices is full"]
    assert hooks.health_check()["dropped"] == count("credit_hook_dropped_total", "later") - before == 5
    listener.go.set()
    hooks.announce_stop()
    assert listener.heard == ["running", *range(QUEUE_MAX)]


def test_a_failing_callback_does_not_keep_the_next_notice_from_being_heard(hooks: HooksManager) -> None:
    heard: list[Any] = []
    hooks.register_hook("later", failing, priority=1)
    hooks.register_hook("later", heard.append)
    hooks.trigger("later", 1)
    hooks.trigger("later", 2)
    hooks.announce_stop()
    assert heard == [1, 2]
    assert hooks.health_check()["failed"] == 2


def test_who_has_left_meanwhile_does_not_hear_what_was_queued(hooks: HooksManager) -> None:
    listener, heard = Listener(), []
    hooks.register_hook("later", listener)
    hooks.register_hook("later", heard.append)
    hooks.trigger("later", 1)
    assert listener.began.wait(10)
    hooks.trigger("later", 2)
    hooks.unregister_hook("later", heard.append)
    listener.go.set()
    hooks.announce_stop()
    assert (listener.heard, 2 in heard) == ([1, 2], False)


def test_what_nobody_listens_to_is_not_queued(hooks: HooksManager) -> None:
    hooks.register_hook("later", print, context="elsewhere")
    hooks.trigger("later", context="here")
    assert hooks._notices._thread is None


def test_a_stop_hears_out_what_is_queued_and_leaves_no_thread(hooks: HooksManager) -> None:
    heard: list[Any] = []
    hooks.register_hook("later", heard.append)
    hooks.register_hook("before_stop", lambda data: hooks.trigger("later", "at the stop"))
    hooks.trigger("later", "before")
    hooks.announce_stop()
    assert heard == ["before", "at the stop"]
    hooks.trigger("later", "last")
    hooks.dispose()
    assert heard == ["before", "at the stop", "last"]
    assert "hook-notices" not in {thread.name for thread in threading.enumerate()}
    hooks.trigger("later", "after")
    assert heard[-1] == "last"


def test_a_listener_that_hangs_does_not_hang_the_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("core.managers.hooks_manager._DRAIN_SECONDS", 0.1)
    hooks, listener = started(), Listener()
    hooks.register_hook("later", listener)
    for number in range(3):
        hooks.trigger("later", number)
    assert listener.began.wait(10)
    with logging_to(tmp_path) as logs:
        hooks.dispose()
        assert [(line["message"], line["notices"]) for line in logs.lines()] == [("notices were lost at the stop", 2)]
    hooks.dispose()
    listener.go.set()


GREEN = """
import sys
from utils import green
green.patch(sys.argv[1])
import threading, time
from types import SimpleNamespace
from core.managers.hooks_manager import HooksManager
assert green.current_mode() == sys.argv[1]
hooks = HooksManager(SimpleNamespace(config={"HOOK_QUEUE_MAX": 10, "REQUEST_TIMEOUT": 4.0}))
hooks.initialize()
hooks.declare_hook("later", asynchronous=True)
heard = []
hooks.register_hook("later", lambda data: time.sleep(0.01) or heard.append(data))
for number in range(5):
    hooks.trigger("later", number)
assert heard == [], "the caller did not wait"
hooks.announce_stop()
assert heard == [0, 1, 2, 3, 4], heard
hooks.trigger("later", 5)
hooks.dispose()
assert heard[-1] == 5
assert [t.name for t in threading.enumerate()].count("hook-notices") == 0
print("ok")
"""


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_asynchronous_notices_work_on_green_threads(mode: str) -> None:
    done = subprocess.run([sys.executable, "-c", GREEN, mode], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


# Health


def test_health_counts_and_a_disposed_manager_calls_nobody(hooks: HooksManager) -> None:
    hooks.register_hook("notice", failing)
    figures = hooks.health_check()
    assert (figures["registered"], figures["declared"]) == (1, len(BUILT_IN) + 3)
    assert (figures["queued"], figures["dropped"], figures["failed"]) == (0, 0, 0)
    hooks.dispose()
    assert hooks.trigger("notice") == []


def test_a_hook_that_many_declare_at_once_is_one(hooks: HooksManager) -> None:
    name = f"ev_{unique('x').replace('-', '_')}".lower()
    threads = [threading.Thread(target=hooks.declare_hook, args=(name,), kwargs={"payload": int}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [hook.name for hook, _ in hooks.hooks()].count(name) == 1
