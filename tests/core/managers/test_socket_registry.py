"""The socket registry on a real Redis: two workers in one process, which live, die, and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from core.managers import socket_registry
from core.managers.socket_registry import SocketRegistry
from core.web.budget import Budget
from core.web.routing import Principal
from core.web.socket_events import Connection
from tests.core.conftest import Factory
from tests.support.at_once import at_once
from tests.support.client import unique
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from utils.ids import new_id

# Of each room.
ROOM_SIZE = 7
RACERS = 5000


@pytest.fixture(scope="module")
def redis(app_manager_factory: Factory) -> Any:
    return app_manager_factory("redis").redis_manager


@pytest.fixture
def near(redis: Any) -> Iterator[SocketRegistry]:
    yield from living(redis)


@pytest.fixture
def far(redis: Any) -> Iterator[SocketRegistry]:
    yield from living(redis)


@pytest.fixture
def dying(redis: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketRegistry]:
    """A worker that has been killed: its lease ends soon."""
    monkeypatch.setattr(socket_registry, "LEASE_SECONDS", 0.3)
    registry = SocketRegistry(redis, new_id("w"), ROOM_SIZE)
    registry.renew()
    monkeypatch.undo()
    yield registry
    registry.retire()


def living(redis: Any) -> Iterator[SocketRegistry]:
    registry = SocketRegistry(redis, new_id("w"), ROOM_SIZE)
    registry.renew()
    yield registry
    registry.retire()


def socket_of(user_id: str, *rooms: str) -> Connection:
    budgets = {name: Budget(1, 1) for name in ("budget", "user_budget", "patience")}
    principal = Principal(user_id, "user", "s_1")
    since = dict.fromkeys(rooms, time.time())
    return Connection(new_id("x"), principal, 0.0, "203.0.113.9", username=f"name of {user_id}", rooms=since, **budgets)


def keys_of(redis: Any) -> set[bytes]:
    """All that sockets and rooms have left in Redis, other than workers."""
    found = [*redis._client.keys("sockets:*"), *redis._client.keys("room:*")]
    return {key for key in found if key != b"sockets:workers"}


def sids(redis: Any, room: str) -> list[str]:
    [presence] = SocketRegistry(redis, "w_reader", ROOM_SIZE).presence([room])
    return [member.user_id for member in presence.members]


def test_users_are_online_while_they_have_a_socket_on_any_worker(near: SocketRegistry, far: SocketRegistry) -> None:
    anna, bert, cleo = (unique("u") for _ in range(3))
    first, second, third = socket_of(anna), socket_of(anna), socket_of(bert)
    near.register([first])
    far.register([second, third])
    assert near.users_online([anna, bert, cleo]) == far.users_online({anna, bert, cleo}) == {anna, bert}
    near.forget([first])
    assert near.users_online([anna, bert]) == {anna, bert}
    far.forget([second])
    assert near.users_online([anna, bert]) == {bert}
    assert near.users_online([]) == set()


def test_a_socket_that_is_registered_or_forgotten_twice_counts_once(redis: Any, near: SocketRegistry) -> None:
    anna = unique("u")
    first, second = socket_of(anna), socket_of(anna)
    near.register([first, second])
    near.register([first, second])
    near.forget([first, first])
    assert near.users_online([anna]) == {anna}
    near.forget([second])
    assert near.users_online([anna]) == set()
    assert keys_of(redis) == set()


def test_thousands_of_users_are_looked_up_in_one_round_trip(redis: Any, near: SocketRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [unique("u") for _ in range(2500)]
    near.register([socket_of(user) for user in users[::2]])
    calls: list[Any] = []
    guard = redis.guard
    monkeypatch.setattr(redis, "guard", lambda command: (calls.append(command), guard(command))[1])
    assert near.users_online(users) == set(users[::2])
    assert len(calls) == 1


def test_those_of_a_killed_worker_are_offline_and_out_of_their_rooms_when_its_lease_ends(
    redis: Any, near: SocketRegistry, dying: SocketRegistry
) -> None:
    anna, bert, room = unique("u"), unique("u"), unique("room")
    gone, here = socket_of(anna), socket_of(bert)
    for registry, each in ((dying, gone), (near, here)):
        registry.register([each])
        registry.join(room, each)
    assert sorted(sids(redis, room)) == sorted([anna, bert])

    def dead() -> list[str]:
        return near.renew().dead

    assert eventually(dead, 5) == [dying._worker]
    assert near.users_online([anna, bert]) == {bert}
    assert sids(redis, room) == [bert]
    near._room_size = 2
    assert near.join(room, socket_of("u")) == 2, "a place of the dead is free"
    assert near.sweep(dying._worker) == {room}
    assert near.renew().dead == []
    near.retire()
    assert keys_of(redis) == set()


def test_a_worker_that_was_swept_while_it_slept_comes_back_with_all_its_sockets(
    redis: Any, near: SocketRegistry, dying: SocketRegistry
) -> None:
    anna, room = unique("u"), unique("room")
    each = socket_of(anna, room)
    dying.register([each])
    dying.join(room, each)
    eventually(lambda: near.renew().dead, 5)
    near.sweep(dying._worker)
    assert near.users_online([anna]) == set()
    pulse = dying.renew()
    assert not pulse.unbroken
    dying.register([each])
    dying.rejoin([each])
    assert near.users_online([anna]) == {anna}
    assert sids(redis, room) == [anna]
    assert dying.renew().unbroken


def test_what_redis_carries_out_after_it_did_not_answer_is_set_right(
    redis: Any, near: SocketRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, left = unique("joined"), unique("left")
    each = socket_of(unique("u"), left)
    near.register([each])
    near.join(left, each)
    run = redis.run_script

    def answer_lost(*script: Any) -> None:
        run(*script)
        raise Unavailable

    monkeypatch.setattr(redis, "run_script", answer_lost)
    for verb in (lambda: near.join(joined, each), lambda: near.leave(left, each)):
        with pytest.raises(Unavailable):
            verb()
    monkeypatch.undo()
    assert (sids(redis, joined), sids(redis, left)) == ([each.principal.user_id], [])
    near.settle(each)
    assert (sids(redis, joined), sids(redis, left)) == ([], [each.principal.user_id])
    assert each.doubtful == set()


def test_no_sweep_touches_a_worker_that_lives(near: SocketRegistry, far: SocketRegistry) -> None:
    anna = unique("u")
    far.register([socket_of(anna)])
    assert near.sweep(far._worker) == set()
    assert near.users_online([anna]) == {anna}


def test_many_who_race_for_the_last_places_of_a_room_get_as_many_as_there_are(near: SocketRegistry, far: SocketRegistry) -> None:
    room = unique("room")

    def join(number: int) -> list[int | None]:
        return [(near, far)[number % 2].join(room, socket_of("u")) for _ in range(RACERS // 100)]

    sizes = [size for own in at_once(100, join) for size in own]
    assert len(sizes) == RACERS
    assert sorted(size for size in sizes if size is not None) == list(range(1, ROOM_SIZE + 1))
    [presence] = near.presence([room])
    assert presence.members == [], "nobody has a card"


def test_a_second_join_takes_no_second_place(near: SocketRegistry) -> None:
    room, one, two = unique("room"), socket_of("u_1"), socket_of("u_2")
    near._room_size = 1
    assert [near.join(room, one), near.join(room, one), near.join(room, two)] == [1, 1, None]
    assert near.leave(room, one)
    assert not near.leave(room, one)
    assert near.join(room, two) == 1


def test_presence_is_in_order_with_names_and_nothing_of_it_is_readable_in_redis(
    redis: Any, near: SocketRegistry, far: SocketRegistry
) -> None:
    room, users = unique("room"), [unique("u") for _ in range(4)]
    for number, user in enumerate(users):
        registry, each = (near, far)[number % 2], socket_of(user)
        registry.register([each])
        registry.join(room, each)
    [presence] = far.presence([room])
    assert {(member.user_id, member.username) for member in presence.members} == {(user, f"name of {user}") for user in users}
    assert [member.since for member in presence.members] == sorted(member.since for member in presence.members)
    cards = redis._client.hgetall(f"sockets:{near._worker}")
    assert cards
    assert not any(user.encode() in value for user in users for value in cards.values())
    names = b" ".join([*redis._client.hkeys(f"sockets:{near._worker}:users")])
    assert not any(user.encode() in names for user in users)


def test_a_room_named_like_a_key_of_another_room_does_not_reach_it(near: SocketRegistry) -> None:
    room = unique("room")
    one = socket_of("u_1")
    near.join(room, one)
    for name in (f"{room}:{near._worker}", "workers", "sockets:workers"):
        assert near.join(name, one) == 1


def test_a_worker_that_retires_takes_everything_along_however_much_it_is(redis: Any, near: SocketRegistry) -> None:
    connections = [socket_of(unique("u"), unique("room")) for _ in range(1200)]
    near.register(connections)
    near.rejoin(connections)
    assert near.retire() == {room for each in connections for room in each.rooms}
    assert keys_of(redis) == set()
    assert near.users_online([each.principal.user_id for each in connections]) == set()
