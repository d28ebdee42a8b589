"""The page at `/` in a real Chromium: what people do there, what they see without asking, and what goes wrong on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from playwright.sync_api import Route, expect

from tests.browser.conftest import Visit
from tests.support.app_server import AppServer
from tests.support.browser import Visitor
from tests.support.client import Client, unique
from tools.local_stack import LocalStack

ACCESS_SECONDS = 4


def as_client(visitor: Visitor) -> Client:
    """The same person over REST, in a session of its own."""
    return Client.login(visitor.url, visitor.name)


@pytest.fixture
def push(servers: LocalStack) -> Iterator[Callable[[str, str, dict[str, Any]], None]]:
    """Sends a user's sockets an event, as a worker would: one that came late, or after one that was lost."""

    def publish(user_id: str, event: str, data: dict[str, Any]) -> None:
        message = {"method": "emit", "event": event, "data": [data], "namespace": "/", "room": f"user:{user_id}", "host_id": "test"}
        heard = client.publish("credit-system-sockets", json.dumps({**message, "skip_sid": None}))
        assert heard, "no worker listens"

    with redis.Redis.from_url(servers.environ["REDIS_URL"], password=servers.secrets["redis_password"]) as client:
        yield publish


# Signing in and out


def test_someone_makes_an_account_signs_out_and_signs_in(visit: Visit) -> None:
    visitor = visit().register()
    expect(visitor.page.locator("#who")).to_have_text(visitor.name)
    visitor.button("Sign out").click()
    expect(visitor.field("Username or e-mail")).to_be_focused()
    expect(visitor.page.locator("#notice")).to_be_hidden()
    visitor.sign_in(f"{visitor.name}@example.com")
    visitor.expect_live()
    visitor.expect_text("#available", "0")


def test_it_can_be_used_with_the_keyboard_alone(visit: Visit, alice: Client) -> None:
    visitor = visit()
    keyboard = visitor.page.keyboard
    expect(visitor.field("Username or e-mail")).to_be_focused()
    keyboard.type(alice.user["username"])
    keyboard.press("Tab")
    keyboard.type("a rather long passphrase")
    keyboard.press("Enter")
    visitor.expect_live()
    # From the content on: sign out lies before it, the form to send after the wallet.
    keyboard.press("Tab")
    expect(visitor.field("To (username)")).to_be_focused()
    for _ in range(4):
        keyboard.press("Tab")
    expect(visitor.field("Room")).to_be_focused()


def test_a_refusal_is_said_in_the_servers_words_at_the_field(visit: Visit, alice: Client) -> None:
    visitor = visit()
    visitor.sign_in(alice.user["username"], "a quite wrong passphrase")
    visitor.expect_visible("#sign-in-form [role=alert]", "The login or the password is wrong.")
    visitor.button("Make an account").click()
    visitor.field("Username").fill("not valid!")
    visitor.field("E-mail").fill("new@example.com")
    visitor.field("Password").fill("a rather long passphrase")
    visitor.button("Make the account").click()
    visitor.expect_visible("#register-form [role=alert]", "Username: ")
    expect(visitor.field("Username")).to_be_focused()
    expect(visitor.field("Username")).to_have_attribute("aria-invalid", "true")
    expect(visitor.field("E-mail")).not_to_have_attribute("aria-invalid", "true")


def test_a_reload_keeps_the_session_and_no_token_lies_in_storage_meanwhile(visit: Visit) -> None:
    visitor = visit().register()
    for _ in range(2):
        assert visitor.page.evaluate("({...sessionStorage, ...localStorage})") == {}
        visitor.page.reload()
        visitor.expect_live()
    expect(visitor.page.locator("#who")).to_have_text(visitor.name)
    assert "token" not in visitor.page.url


def test_a_copy_of_the_tab_finds_no_token_and_harms_nobody(visit: Visit) -> None:
    visitor = visit().register()
    with visitor.page.expect_popup() as opened:
        # A window that is opened so gets a copy of the session storage.
        visitor.page.evaluate("open('/')")
    expect(opened.value.get_by_label("Username or e-mail")).to_be_visible()
    visitor.page.reload()
    visitor.expect_live()


def test_a_session_that_is_ended_elsewhere_ends_here_at_once_and_says_so(visit: Visit) -> None:
    visitor = visit().register()
    as_client(visitor).call("POST", "/auth/logout-all")
    visitor.expect_text("#notice", "This session was ended.")
    expect(visitor.field("Password")).to_be_visible()


# Credits


def test_credits_that_come_and_go_are_shown_at_once_without_asking(visit: Visit, admin: Client, bob: Client) -> None:
    visitor = visit().register()
    client = as_client(visitor)
    wallet = client.wallet()["id"]

    def come_and_go() -> None:
        admin.grant(wallet, 1000, reason="welcome")
        visitor.expect_text("#available", "1,000")
        visitor.expect_visible("#recent li", "+1,000")
        assert client.transfer({"username": bob.user["username"]}, 250, memo="thanks").status_code == 201
        visitor.expect_text("#settled", "750")
        visitor.expect_visible("#recent li", "thanks")

    asked = visitor.requests_during(come_and_go)
    assert [line for line in asked if "/wallets/" in line] == []
    assert visitor.page.locator("#news").text_content() == "750 credits available"
    client.post(f"/wallets/{wallet}/holds", {"amount": 50})
    visitor.expect_text("#held", "50")
    visitor.expect_text("#available", "700")


def test_a_lost_push_is_noticed_and_everything_is_read_again(visit: Visit, admin: Client, push: Any) -> None:
    visitor = visit().register()
    client = as_client(visitor)
    wallet = client.wallet()["id"]
    admin.grant(wallet, 300)
    visitor.expect_text("#settled", "300")
    one_too_far = {"wallet_id": wallet, "settled": 999, "held": 0, "available": 999, "seq": 3, "version": 99}
    asked = visitor.requests_during(
        lambda: (
            push(client.user["id"], "wallet_updated", one_too_far),
            visitor.expect_text("#settled", "999"),
            visitor.expect_text("#settled", "300"),
        )
    )
    assert "GET /wallets/me" in asked


def test_a_push_that_is_late_or_of_another_wallet_changes_nothing(visit: Visit, admin: Client, push: Any) -> None:
    visitor = visit().register()
    client = as_client(visitor)
    wallet = client.wallet()["id"]
    for amount in (100, 200):
        admin.grant(wallet, amount)
    visitor.expect_text("#settled", "300")
    late = {"wallet_id": wallet, "settled": 7, "held": 0, "available": 7, "seq": 2, "version": 1}
    push(client.user["id"], "wallet_updated", late)
    push(client.user["id"], "wallet_updated", {**late, "wallet_id": "w_other", "seq": 9, "version": 99})
    visitor.page.evaluate("seen = []; new MutationObserver(() => seen.push(settled.textContent)).observe(settled, {childList: true})")
    # Pushes come in order: when this one has arrived, so have they.
    admin.grant(wallet, 1)
    visitor.expect_text("#settled", "301")
    assert visitor.page.evaluate("seen") == ["301"]


def test_sending_says_what_was_sent_or_why_not(visit: Visit, admin: Client, bob: Client) -> None:
    visitor = visit().register()
    admin.grant(as_client(visitor).wallet()["id"], 100)
    visitor.expect_text("#available", "100")
    visitor.send(bob.user["username"], 40, "for you")
    visitor.expect_text("#sent", f"Sent 40 to {bob.user['username']}.")
    visitor.expect_text("#available", "60")
    visitor.send(bob.user["username"], 1000)
    expect(visitor.page.locator("#send-form .error")).to_have_text("The wallet does not hold enough. 60 available.")
    visitor.send(bob.user["username"], "a few")
    expect(visitor.page.locator("#send-form .error")).to_contain_text("Amount: ")
    expect(visitor.field("Amount")).to_be_focused()
    assert bob.wallet()["settled"] == 40


def lose_answers(times: float) -> tuple[Callable[[Route], None], list[str]]:
    """Lets transfers through and loses the answers of the first ones; and their Idempotency-Keys."""
    keys: list[str] = []

    def handle(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        answer = route.fetch()
        if len(keys) <= times:
            route.abort()
        else:
            route.fulfill(response=answer)

    return handle, keys


def test_a_transfer_whose_answer_is_lost_is_sent_once(visit: Visit, admin: Client, bob: Client) -> None:
    visitor = visit().register()
    admin.grant(as_client(visitor).wallet()["id"], 100)
    handler, keys = lose_answers(2)
    visitor.page.route("**/transfers", handler)
    visitor.send(bob.user["username"], 30)
    visitor.expect_text("#sent", f"Sent 30 to {bob.user['username']}.")
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert bob.wallet()["settled"] == 30
    visitor.send(bob.user["username"], 31)
    visitor.expect_text("#sent", f"Sent 31 to {bob.user['username']}.")
    assert len(set(keys)) == 2
    assert bob.wallet()["settled"] == 61


def test_a_transfer_whose_outcome_stays_unknown_waits_for_another_try_even_over_a_reload(visit: Visit, admin: Client, bob: Client) -> None:
    visitor = visit().register()
    admin.grant(as_client(visitor).wallet()["id"], 100)
    handler, keys = lose_answers(float("inf"))
    visitor.page.route("**/transfers", handler)
    visitor.send(bob.user["username"], 30)
    expect(visitor.page.locator("#send-form .error")).to_contain_text("cannot send them twice", timeout=20_000)
    expect(visitor.field("Amount")).not_to_be_editable()
    visitor.page.unroute("**/transfers")
    visitor.page.reload()
    visitor.button("Try again").click()
    visitor.expect_text("#sent", f"Sent 30 to {bob.user['username']}.")
    assert bob.wallet()["settled"] == 30
    assert len(set(keys)) == 1


# Rooms


def test_two_people_see_each_other_and_talk(visit: Visit) -> None:
    room = unique("room")
    ann, ben = visit().register(), visit().register()
    ann.join(room)
    ben.join(room)
    for one, other in ((ann, ben), (ben, ann)):
        one.expect_visible("#present li", f"{one.name} (you)")
        one.expect_visible("#present li", other.name)
        one.expect_text("#room-size", "(2)")
    ann.talk("<img src=x onerror=alert(1)> hello")
    ben.expect_visible("#messages li", "<img src=x onerror=alert(1)> hello")
    ben.expect_visible("#messages li", ann.name)
    assert ben.page.locator("#messages img").count() == 0
    ben.button("Leave").click()
    ann.expect_text("#room-size", "(1)")
    expect(ann.page.locator("#present li")).to_have_text([f"{ann.name} (you)"])
    expect(ben.field("Room")).to_be_focused()


def test_a_room_that_cannot_be_joined_says_why(visit: Visit, alice: Client) -> None:
    visitor = visit().register()
    visitor.field("Room").fill(f"user:{alice.user['id']}")
    visitor.button("Join").click()
    visitor.expect_visible("#join-form [role=alert]", "This room is not open to join or leave.")
    visitor.field("Room").fill("no such room!")
    visitor.button("Join").click()
    visitor.expect_visible("#join-form [role=alert]", "Room: ")


# What ends and comes back


@pytest.fixture(scope="module")
def brief(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Its access tokens live for a few seconds."""
    with AppServer(servers.environ, tmp_path_factory.mktemp("brief"), WORKERS=1, JWT_ACCESS_TTL=ACCESS_SECONDS) as running:
        yield running


def test_it_stays_live_when_tokens_end_and_when_a_worker_dies(visit: Visit, brief: AppServer, admin: Client) -> None:
    visitor = visit(brief.url).register()
    visitor.join("lobby")
    with visitor.page.expect_response(re.compile("/auth/refresh"), timeout=10_000):
        pass
    with visitor.page.expect_response(re.compile("/auth/refresh"), timeout=10_000):
        pass
    visitor.expect_live()
    wallet = as_client(visitor).wallet()["id"]
    brief.kill_worker()
    expect(visitor.page.locator("#live")).to_have_text("Connecting")
    admin.grant(wallet, 77)
    expect(visitor.page.locator("#live")).to_have_text("Live", timeout=30_000)
    visitor.expect_text("#settled", "77")
    visitor.expect_visible("#present li", f"{visitor.name} (you)")
    visitor.talk("still here")
    visitor.expect_visible("#messages li", "still here")
