"""Socket.IO in both modes and over two workers: who gets in, who hears what, and what no client can do to the others."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import psutil
import pytest
import requests

from core.managers.jwt_manager import JWTManager
from tests.support.app_server import AppServer
from tests.support.client import Client, unique
from tests.support.polling import assert_gone, eventually
from tests.support.sockets import BareSocket, SocketClient, deflated, on_two_workers, refusal_of, worker_memory
from tools.local_stack import LocalStack

ORIGIN = "https://app.example.com"
ROOM_SIZE = 3
BURST = 40
TOKEN_SECONDS = 3
# What requests in flight get, and a little for an end that waits for nobody.
STOP_SECONDS = 5 + 3
MEGABYTE = 1024 * 1024
# What a worker may grow by while it refuses 50 MB.
GROWTH = 30 * MEGABYTE
BOMB = 50 * MEGABYTE
INFLATED = 300 * MEGABYTE
FRAME = 60_000
# More than the buffers of both ends hold, and the queue.
BIG_MESSAGES = 200
FLOOD = 1000


@pytest.fixture(scope="module", params=["eventlet", "gevent"])
def sockets(request: pytest.FixtureRequest, servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Two workers of one mode."""
    folder = tmp_path_factory.mktemp(f"sockets-{request.param}")
    settings = {"ASYNC_MODE": request.param, "ROOM_MAX_MEMBERS": ROOM_SIZE, "CORS_ORIGINS": ORIGIN}
    with AppServer(servers.environ, folder, **settings) as running:
        yield running


@pytest.fixture
def user(sockets: AppServer) -> Client:
    return Client.register(sockets.url)


@pytest.fixture
def connect(sockets: AppServer) -> Iterator[Callable[[Client], SocketClient]]:
    """Connects as a user; whatever is still open afterwards is closed."""
    opened: list[SocketClient] = []

    def connect_as(user: Client) -> SocketClient:
        opened.append(SocketClient.connected(sockets.url, user.token))
        return opened[-1]

    yield connect_as
    for client in opened:
        client.close()


Connect = Callable[[Client], SocketClient]


def token_of(user: Client, secrets_dir: Path, *, lifetime: int) -> str:
    """A token of the user's session that lives for `lifetime` seconds, which may be over."""
    config = {
        "JWT_SECRET": (secrets_dir / "jwt_secret").read_text().strip(),
        "JWT_ALGORITHM": "HS256",
        "JWT_ISSUER": "credit-system",
        "JWT_AUDIENCE": "credit-system",
        "JWT_ACCESS_TTL": lifetime,
        "JWT_REFRESH_TTL": lifetime,
    }
    manager = JWTManager(SimpleNamespace(config=config))  # type: ignore[arg-type]
    manager.initialize()
    claims = jwt.decode(user.token, options={"verify_signature": False})
    return manager.generate_token(claims["sub"], claims["role"], session_id=claims["sid"])


# Who gets in


@pytest.mark.parametrize("auth", [None, {}, {"token": ""}, {"token": None}, {"token": 7}, ["token"], 7, "token", True], ids=repr)
def test_a_socket_without_a_token_is_refused_with_a_problem(sockets: AppServer, auth: Any) -> None:
    problem = refusal_of(sockets.url, auth)
    assert (problem["code"], problem["status"]) == ("token-invalid", 401)


def test_a_socket_with_a_bad_or_expired_or_revoked_token_is_refused_with_a_problem(
    sockets: AppServer, user: Client, secrets_dir: Path
) -> None:
    bad = refusal_of(sockets.url, {"token": user.token[:-3] + "abc"})
    refresh = refusal_of(sockets.url, {"token": user.refresh_token})
    expired = refusal_of(sockets.url, {"token": token_of(user, secrets_dir, lifetime=-60)})
    assert user.call("POST", "/auth/logout").status_code == 204
    revoked = refusal_of(sockets.url, {"token": user.token})
    codes = [problem["code"] for problem in (bad, refresh, expired, revoked)]
    assert codes == ["token-invalid", "token-invalid", "token-expired", "session-revoked"]


@pytest.mark.parametrize("origin", ["https://evil.example.com", f"{ORIGIN}.evil.org", "null", "http://app.example.com"])
def test_a_foreign_origin_is_refused(sockets: AppServer, origin: str) -> None:
    attempt = BareSocket(sockets.url, f"Origin: {origin}")
    assert " 400 " in attempt.answer
    attempt.close()


def test_the_named_origin_and_our_own_are_let_in(sockets: AppServer, user: Client) -> None:
    for origin in (ORIGIN, sockets.url):
        attempt = BareSocket(sockets.url, f"Origin: {origin}")
        assert " 101 " in attempt.answer
        attempt.sign_in(user.token)
        attempt.close()


# Who hears what


def test_members_of_a_room_hear_each_other_on_one_worker_and_on_two(sockets: AppServer, user: Client, connect: Connect) -> None:
    other = Client.register(sockets.url)
    near, far = on_two_workers(sockets, lambda: connect(user))
    third = connect(other)
    room = unique("room")
    for client in (near, far, third):
        client.join(room)
    assert [data["room"] for data in near.received("room_joined")] == [room]
    for number, sender in enumerate((near, far, third)):
        assert sender.call("send_message", {"room": room, "data": {"number": number}})["ok"]
    for client in (near, far, third):
        message = client.expect("message", lambda data: data["data"] == {"number": 2})
        assert (message["room"], message["from"]) == (room, other.user["id"])
        client.expect("message", lambda data: data["data"] == {"number": 0})
        client.expect("message", lambda data: data["data"] == {"number": 1})
    assert third.call("leave_room", {"room": room})["ok"]
    assert near.call("send_message", {"room": room, "data": "after"})["ok"]
    far.expect("message", lambda data: data["data"] == "after")
    assert third.call("send_message", {"room": room, "data": "from outside"})["error"]["code"] == "forbidden"
    assert "after" not in [data["data"] for data in third.received("message")]


def test_a_direct_message_reaches_all_sockets_of_one_user_only(sockets: AppServer, user: Client, connect: Connect) -> None:
    stranger = connect(Client.register(sockets.url))
    near, far = on_two_workers(sockets, lambda: connect(user))
    sender = connect(Client.register(sockets.url))
    assert sender.call("direct_message", {"user_id": user.user["id"], "data": "for you"})["ok"]
    for client in (near, far):
        assert client.expect("message")["data"] == "for you"
    assert not stranger.received("message")
    assert not sender.received("message")


def test_only_an_admin_broadcasts_and_everyone_hears_it(sockets: AppServer, servers: LocalStack, user: Client, connect: Connect) -> None:
    near, far = on_two_workers(sockets, lambda: connect(user))
    assert near.call("broadcast", {"data": "by nobody"})["error"]["code"] == "forbidden"
    admin = connect(Client.admin(sockets.url, Path(servers.environ["SECRETS_DIR"])))
    assert admin.call("broadcast", {"data": "by the admin"})["ok"]
    for client in (near, far, admin):
        assert [data["data"] for data in client.received("message")] == [] or client.received("message")[0]["data"] == "by the admin"
        client.expect("message", lambda data: data["data"] == "by the admin")


def test_rooms_of_users_and_sessions_are_not_open_to_join(sockets: AppServer, user: Client, connect: Connect) -> None:
    other = Client.register(sockets.url)
    client = connect(user)
    for room in (f"user:{other.user['id']}", f"user:{user.user['id']}", "session:s_1", "user:"):
        assert client.call("join_room", {"room": room})["error"]["code"] == "forbidden"
        assert client.call("leave_room", {"room": room})["error"]["code"] == "forbidden"
        assert client.call("send_message", {"room": room, "data": 1})["error"]["code"] == "forbidden"
    assert client.call("join_room", {"room": unique("still-here")})["ok"]


@pytest.mark.parametrize(
    "payload",
    [None, [], "room", 7, {}, {"room": ""}, {"room": 7}, {"room": "a b"}, {"room": "x" * 65}, {"room": "x\x00"}, {"room": "a", "more": 1}],
    ids=repr,
)
def test_a_bad_payload_is_a_problem_in_the_ack_and_the_socket_lives(user: Client, connect: Connect, payload: Any) -> None:
    client = connect(user)
    ack = client.call("join_room", payload)
    assert ack["ok"] is False
    assert (ack["error"]["status"], ack["error"]["code"]) == (422, "validation-failed")
    assert ack["error"]["request_id"]
    assert client.call("join_room", {"room": unique("good")})["ok"]


def test_events_over_the_budget_are_refused_and_the_socket_lives(user: Client, connect: Connect) -> None:
    client = connect(user)
    acks: list[dict[str, Any]] = []
    for _ in range(3 * BURST):
        client.io.emit("send_message", {"room": "nowhere", "data": 1}, callback=acks.append)
    eventually(lambda: len(acks) == 3 * BURST, 20)
    codes = [ack["error"]["code"] for ack in acks]
    assert codes[0] == "forbidden"
    assert codes.count("rate-limited") >= BURST
    assert set(codes) == {"forbidden", "rate-limited"}
    eventually(lambda: client.call("join_room", {"room": unique("after")})["ok"], 5)


def test_a_room_takes_as_many_as_it_may_however_they_race(sockets: AppServer, connect: Connect) -> None:
    users = [Client.register(sockets.url) for _ in range(5)]
    clients = [connect(user) for user in users for _ in range(2)]
    room = unique("small")
    with ThreadPoolExecutor(len(clients)) as pool:
        acks = list(pool.map(lambda client: client.call("join_room", {"room": room}), clients))
    inside = [client for client, ack in zip(clients, acks, strict=True) if ack["ok"]]
    refused = [ack["error"]["code"] for ack in acks if not ack["ok"]]
    assert (len(inside), refused) == (ROOM_SIZE, ["room-full"] * (len(clients) - ROOM_SIZE))
    # A place that is left, or whose holder goes away, is free again.
    outside = next(client for client in clients if client not in inside)
    inside[0].close()
    eventually(lambda: outside.call("join_room", {"room": room})["ok"], 5)
    assert inside[1].call("leave_room", {"room": room})["ok"]
    another = next(client for client in clients if client not in inside and client is not outside)
    assert another.call("join_room", {"room": room})["ok"]


# Who is there


def test_everybody_in_a_room_sees_who_comes_and_goes_on_any_worker(sockets: AppServer, user: Client, connect: Connect) -> None:
    other = Client.register(sockets.url)
    near, far = on_two_workers(sockets, lambda: connect(user))
    third = connect(other)
    room = unique("room")
    near.join(room)
    near.expect("presence", lambda data: data["size"] == 1)
    far.join(room)
    third.join(room)
    for client in (near, far, third):
        seen = client.expect("presence", lambda data: data["size"] == 3)
        assert seen["room"] == room
        assert [(who["user_id"], who["username"]) for who in seen["users"]] == [
            (user.user["id"], user.user["username"]),
            (other.user["id"], other.user["username"]),
        ], "a user is listed once, however many sockets they have"
        asked = client.call("presence", {"room": room})
        assert asked == {"ok": True, **seen}
    assert third.call("leave_room", {"room": room})["ok"]
    near.close()
    far.expect("presence", lambda data: (data["size"], [who["user_id"] for who in data["users"]]) == (1, [user.user["id"]]))


def test_who_is_in_a_room_is_told_to_those_who_are_in_it(user: Client, connect: Connect) -> None:
    client = connect(user)
    for room in (unique("other"), f"user:{user.user['id']}", "session:all"):
        assert client.call("presence", {"room": room})["error"]["code"] == "forbidden"


def test_only_who_is_signed_in_hears_a_broadcast(sockets: AppServer, servers: LocalStack, user: Client, connect: Connect) -> None:
    admin = connect(Client.admin(sockets.url, Path(servers.environ["SECRETS_DIR"])))
    assert admin.call("direct_message", {"user_id": "all", "data": "not for everybody"})["ok"]
    client = connect(user)
    assert admin.call("broadcast", {"data": "for everybody"})["ok"]
    client.expect("message", lambda data: data["data"] == "for everybody")
    assert "not for everybody" not in [data["data"] for data in client.received("message")]


# What clients call by names that are not theirs


@pytest.mark.parametrize("name", ["no_such_event", "connect", "disconnect", "message", "*", "__disconnect_final"])
def test_an_event_that_does_not_exist_is_a_problem_in_the_ack_and_changes_nothing(
    sockets: AppServer, user: Client, connect: Connect, name: str
) -> None:
    client = connect(user)
    assert client.call(name, {"REMOTE_ADDR": "203.0.113.1"})["error"]["code"] == "unknown-event"
    assert client.call("join_room", {"room": unique("room")})["ok"]
    # Still known as this user's, so that it goes when the session goes.
    assert user.call("POST", "/auth/logout").status_code == 204
    client.expect_end()


# Without a proxy


def test_long_polling_at_several_workers_is_refused_with_what_to_set(sockets: AppServer) -> None:
    opened = requests.get(f"{sockets.url}/socket.io/?EIO=4&transport=polling", timeout=5)
    assert (opened.status_code, opened.json()["code"]) == (400, "polling-unavailable")
    assert "transports: ['websocket']" in opened.json()["detail"]
    assert "PROXY_COUNT" in opened.json()["detail"]
    for method in ("GET", "POST"):
        unknown = requests.request(method, f"{sockets.url}/socket.io/?EIO=4&transport=polling&sid=nobody", timeout=5)
        assert (unknown.status_code, unknown.json()["code"]) == (400, "socket-unknown")
        assert unknown.headers["Content-Type"] == "application/problem+json"


# How it ends


def test_a_log_out_ends_the_sockets_of_its_session_on_all_workers(sockets: AppServer, user: Client, connect: Connect) -> None:
    elsewhere = connect(Client.login(sockets.url, user.user["username"]))
    near, far = on_two_workers(sockets, lambda: connect(user))
    assert user.call("POST", "/auth/logout").status_code == 204
    for client in (near, far):
        names = client.expect_end()
        assert names.index("session_revoked") < names.index("disconnect")
        assert client.received("session_revoked") == [{"reason": "session-revoked"}]
    assert elsewhere.io.connected
    assert elsewhere.call("join_room", {"room": unique("other-session")})["ok"]


def test_a_log_out_everywhere_ends_the_sockets_of_all_sessions_of_that_user(sockets: AppServer, user: Client, connect: Connect) -> None:
    sessions = [user, *(Client.login(sockets.url, user.user["username"]) for _ in range(3))]
    clients = [connect(session) for session in sessions for _ in range(2)]
    stranger = connect(Client.register(sockets.url))
    assert user.call("POST", "/auth/logout-all").status_code == 204
    for client in clients:
        client.expect_end()
        assert client.received("session_revoked") == [{"reason": "session-revoked"}]
    assert stranger.io.connected
    assert stranger.call("join_room", {"room": unique("still-here")})["ok"]


def test_the_end_of_its_token_ends_a_socket(sockets: AppServer, user: Client, secrets_dir: Path, connect: Connect) -> None:
    client = SocketClient.connected(sockets.url, token_of(user, secrets_dir, lifetime=TOKEN_SECONDS))
    lasting = connect(user)
    names = client.expect_end(TOKEN_SECONDS + 5)
    assert names.index("session_revoked") < names.index("disconnect")
    assert client.received("session_revoked") == [{"reason": "token-expired"}]
    assert lasting.io.connected


@pytest.mark.parametrize("signed_in", [True, False], ids=["signed in", "anonymous"])
@pytest.mark.parametrize("shape", ["one large message", "many small frames", "one small frame that inflates"])
def test_a_huge_message_costs_its_sender_the_socket_and_the_worker_no_memory(
    sockets: AppServer, user: Client, connect: Connect, shape: str, signed_in: bool
) -> None:
    witness = connect(user)
    before = worker_memory(sockets)
    attacker = BareSocket(sockets.url)
    assert " 101 " in attacker.answer
    if signed_in:
        attacker.sign_in(user.token)
    with suppress(ConnectionError):
        send_huge(attacker, shape)
    highest = before

    def ended() -> bool:
        nonlocal highest
        highest = max(highest, worker_memory(sockets))
        attacker.link.settimeout(0.05)
        try:
            return not attacker.link.recv(65536)
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    eventually(ended, 20)
    attacker.close()
    assert max(highest, worker_memory(sockets)) - before < GROWTH
    assert witness.call("join_room", {"room": unique("witness")})["ok"]
    assert requests.get(f"{sockets.url}/health/live", timeout=5).status_code == 200


@cache
def inflating() -> bytes:
    return deflated(b'42["send_message",{"room":"' + b"a" * INFLATED)


def send_huge(attacker: BareSocket, shape: str) -> None:
    if shape == "one small frame that inflates":
        attacker.send(inflating(), compressed=True)
    elif shape == "one large message":
        attacker.send(b'42["send_message",{"room":"' + b"a" * BOMB)
    else:
        piece = b"a" * FRAME
        for number in range(BOMB // FRAME):
            attacker.send(piece, first=number == 0, final=False)


def test_a_reader_that_never_reads_is_cut_off_while_the_others_hear_everything(sockets: AppServer, user: Client, connect: Connect) -> None:
    lazy, witness, sender = BareSocket(sockets.url), connect(user), connect(Client.register(sockets.url))
    lazy.sign_in(user.token)
    before = worker_memory(sockets)
    text = "x" * FRAME
    for number in range(BIG_MESSAGES // 5):
        for _ in range(5):
            eventually(lambda: sender.call("direct_message", {"user_id": user.user["id"], "data": text})["ok"], 10)
        # A slow machine must not make a slow reader of this one, too.
        eventually(partial(has_messages, witness, 5 * (number + 1)), 20)
    dropped = 'credit_socket_dropped_total{reason="slow-reader"}'
    eventually(lambda: float(metric(sockets, dropped)) >= 1, 5)
    assert worker_memory(sockets) - before < GROWTH
    lazy.link.settimeout(5)
    with suppress(ConnectionError):
        while lazy.link.recv(MEGABYTE):
            pass
    lazy.close()


def test_who_reads_slowly_hears_everything_once_and_in_order(sockets: AppServer, user: Client, connect: Connect) -> None:
    slow, sender = BareSocket(sockets.url), connect(Client.register(sockets.url))
    slow.sign_in(user.token)
    sizes = [(number * 7919) % 50_000 for number in range(60)]
    for number, size in enumerate(sizes):
        data = {"number": number, "text": "x" * size}
        eventually(lambda data=data: sender.call("direct_message", {"user_id": user.user["id"], "data": data})["ok"], 10)
    heard: list[dict[str, Any]] = []
    while len(heard) < len(sizes):
        packet = slow.read()
        if packet.startswith(b'42["message"'):
            heard.append(json.loads(packet[2:])[1]["data"])
    assert [(data["number"], len(data["text"])) for data in heard] == list(enumerate(sizes))
    slow.close()


def test_who_floods_is_refused_with_a_reason_then_ended_with_one_and_nobody_else_notices(
    sockets: AppServer, user: Client, connect: Connect
) -> None:
    flood, witness = BareSocket(sockets.url), connect(Client.register(sockets.url))
    flood.sign_in(user.token)
    frames = flood.frame(b'427["join_room",{"room":"a"}]') * FLOOD
    flood.link.settimeout(0.1)
    heard = sent = b""
    while b'"session_revoked",{"reason":"too-many-events"}' not in heard:
        with suppress(TimeoutError, ConnectionError):
            flood.link.sendall(frames)
            sent += b"."
        with suppress(TimeoutError):
            piece = flood.link.recv(MEGABYTE)
            assert piece, "a dead socket without a reason"
            heard += piece
        assert witness.call("presence", {"room": "nowhere"})["error"]["code"] in ("forbidden", "rate-limited")
        assert len(sent) < 1000
    assert heard.count(b'"code": "rate-limited"') + heard.count(b'"code":"rate-limited"') > BURST
    flood.close()


def test_binary_is_a_problem_in_the_ack(user: Client, connect: Connect) -> None:
    client = connect(user)
    assert client.call("join_room", {"room": b"bytes"})["error"]["code"] == "malformed-request"


def test_a_user_has_a_budget_over_all_sockets(sockets: AppServer, user: Client, connect: Connect) -> None:
    clients = [connect(user) for _ in range(12)]
    acks: list[dict[str, Any]] = []
    for client in clients:
        for _ in range(BURST - 5):
            client.io.emit("send_message", {"room": "nowhere", "data": 1}, callback=acks.append)
    eventually(lambda: len(acks) == 12 * (BURST - 5), 20)
    codes = [ack["error"]["code"] for ack in acks]
    assert "rate-limited" in codes, "no socket alone has sent too much"


@pytest.mark.parametrize("packet", [b"42", b"42{}", b"42[", b"429", b"4x", b"42" + b"[" * 20_000, b"44", b"459-[1]"], ids=repr)
def test_a_packet_that_is_none_ends_the_socket_with_a_reason(sockets: AppServer, user: Client, packet: bytes) -> None:
    client = BareSocket(sockets.url)
    client.sign_in(user.token)
    client.send(packet)
    while (heard := client.read()) != b'42["session_revoked",{"reason":"malformed-packet"}]':
        assert heard.startswith(b"2"), heard
    client.close()


def test_who_does_not_sign_in_is_not_kept(sockets: AppServer) -> None:
    stranger = BareSocket(sockets.url)
    stranger.link.settimeout(20)
    with suppress(AssertionError, ConnectionError):
        while True:
            stranger.read()
    stranger.close()


def has_messages(client: SocketClient, count: int) -> bool:
    return len(client.received("message")) == count


def metric(server: AppServer, series: str) -> str:
    lines = requests.get(f"{server.url}/metrics", timeout=5).text.splitlines()
    return next((line.split()[-1] for line in lines if line.startswith(series)), "0")


def test_a_websocket_of_before_the_standard_is_refused(sockets: AppServer) -> None:
    """Its messages have no length that could be bounded (draft-ietf-hybi-thewebsocketprotocol-00)."""
    keys = ("Sec-WebSocket-Key1: 18x 6]8vM;54 *(5:  {   U1]8  z [  8", "Sec-WebSocket-Key2: 1_ tx7X d  <  nw  334J702) 7]o}` 0")
    attempt = BareSocket(sockets.url, f"Origin: {ORIGIN}", *keys, standard=False, body=b"Tm[K T2u")
    assert " 101 " not in attempt.answer
    attempt.close()


def test_a_sigterm_says_goodbye_to_every_socket(servers: LocalStack, sockets: AppServer, tmp_path: Path) -> None:
    """Last of its mode: it has a server of its own, but the same mode."""
    with AppServer(servers.environ, tmp_path, ASYNC_MODE=sockets.environ["ASYNC_MODE"]) as server:
        assert server.process is not None
        family = psutil.Process(server.process.pid).children(recursive=True)
        user = Client.register(server.url)
        clients = [SocketClient.connected(server.url, user.token) for _ in range(6)]
        silent = BareSocket(server.url)
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        code = server.process.wait(STOP_SECONDS)
        assert time.monotonic() - began < STOP_SECONDS
    for client in clients:
        client.expect_end()
    silent.close()
    assert code == 0
    assert_gone(family)
    assert server.log_text().count('"worker stopped"') >= 2, "a worker was killed before it had come to its end"
    assert "Traceback" not in server.log_text()
