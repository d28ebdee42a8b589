"""What the money verbs make of a request: whose wallet is meant, and that nobody names an account of the system."""

from __future__ import annotations

from typing import Any

import pytest

from core.modules.transactions_module.commands import Command, Verdict
from core.modules.transactions_module.ledger import ISSUANCE, REVENUE
from core.modules.transactions_module.schemas import DebitBody, GrantBody, MoneyQuery, TransferBody
from core.modules.transactions_module.service import TransactionService
from core.modules.wallet_module.service import WalletService, wallet_id_of
from core.web.routing import ADMIN, SERVICE, USER, Call, Principal
from tools.error_handling.errors import NotFound


class Engine:
    """Takes commands and decides nothing."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def submit(self, command: Command) -> Verdict:
        self.commands.append(command)
        return Verdict(201, "{}")


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def service(engine: Engine) -> TransactionService:
    wallets = WalletService(None, None, None)  # type: ignore[arg-type]
    users = {"bob": "u_bob"}
    known = lambda names: {name: users[name] for name in names if name in users}  # noqa: E731
    return TransactionService(engine, None, wallets, known, None)  # type: ignore[arg-type]


def call(body: Any, wallet_id: str = "", role: str = USER, key: str = "k", **query: Any) -> Call:
    principal = Principal("u_ann", role, "s_1")
    params = {"id": wallet_id} if wallet_id else {}
    return Call(params, body, MoneyQuery(**query), principal, "POST /x", "req-1", key, "", "", "", False)


def test_each_verb_moves_between_what_the_client_names_and_the_system(service: TransactionService, engine: Engine) -> None:
    service.grant(call(GrantBody(amount=5, category="promotional", priority=3, reason="hi", reference="r"), "w_1", ADMIN))
    service.debit(call(DebitBody(amount=6), "w_1"))
    service.transfer(call(TransferBody(destination="w_2", amount=7, memo="m")))
    given, taken, moved = (command.operations[0].draft for command in engine.commands)
    assert (given.source, given.destination, given.amount, given.memo, given.reference) == (ISSUANCE, "w_1", 5, "hi", "r")
    assert given.terms is not None
    assert (given.terms.category, given.terms.priority) == ("promotional", 3)
    assert (taken.source, taken.destination, taken.terms) == ("w_1", REVENUE, None)
    assert (moved.source, moved.destination, moved.memo) == (wallet_id_of("u_ann"), "w_2", "m")


def test_me_is_the_callers_own_wallet_and_a_username_someones_default_one(service: TransactionService, engine: Engine) -> None:
    service.debit(call(DebitBody(amount=1), "me"))
    service.transfer(call(TransferBody.model_validate({"source": "me", "destination": {"username": "bob"}, "amount": 1})))
    service.transfer(call(TransferBody(source="w_1", destination="me", amount=1)))
    assert engine.commands[0].operations[0].draft.source == wallet_id_of("u_ann")
    assert engine.commands[1].operations[0].draft.destination == wallet_id_of("u_bob")
    assert engine.commands[2].operations[0].draft.destination == wallet_id_of("u_ann")


def test_an_unknown_username_is_a_wallet_that_cannot_exist(service: TransactionService, engine: Engine) -> None:
    """The engine refuses it, but only after it has looked for the answer to an earlier request of that key."""
    for name in ("nobody", "no-one"):
        service.transfer(call(TransferBody.model_validate({"destination": {"username": name}, "amount": 1})))
    one, other = (command.operations[0].draft.destination for command in engine.commands)
    assert one == other == wallet_id_of("")


@pytest.mark.parametrize("role", [USER, SERVICE, ADMIN])
@pytest.mark.parametrize("account", [ISSUANCE, REVENUE, "system:issuance:CREDIT", "system:anything"])
def test_nobody_names_an_account_of_the_system(account: str, role: str, service: TransactionService, engine: Engine) -> None:
    """Otherwise anyone could transfer from issuance to himself, which is to make credits of nothing."""
    for attempt in (
        lambda: service.grant(call(GrantBody(amount=1), account, role)),
        lambda: service.debit(call(DebitBody(amount=1), account, role)),
        lambda: service.transfer(call(TransferBody(source=account, destination="me", amount=1), role=role)),
        lambda: service.transfer(call(TransferBody(source="me", destination=account, amount=1), role=role)),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert engine.commands == []


@pytest.mark.parametrize(("role", "privileged", "sees_all"), [(USER, False, False), (SERVICE, True, False), (ADMIN, True, True)])
def test_a_role_becomes_what_the_ledger_knows_of_it(
    role: str, privileged: bool, sees_all: bool, service: TransactionService, engine: Engine
) -> None:
    service.debit(call(DebitBody(amount=1), "w_1", role))
    actor = engine.commands[0].actor
    assert (actor.user_id, actor.privileged, actor.sees_all) == ("u_ann", privileged, sees_all)


def test_a_claim_is_of_what_the_client_sent_and_a_dry_run_has_none(service: TransactionService, engine: Engine) -> None:
    by_name = TransferBody.model_validate({"destination": {"username": "bob"}, "amount": 1})
    service.transfer(call(by_name))
    service.transfer(call(by_name))
    service.transfer(call(TransferBody(destination=wallet_id_of("u_bob"), amount=1)))
    service.transfer(call(by_name, key="another"))
    service.transfer(call(by_name, dry_run=True))
    one, same, by_id, other, rehearsal = (command.claim for command in engine.commands)
    assert one is not None
    assert by_id is not None
    assert other is not None
    assert one == same
    assert (by_id.id == one.id, by_id.fingerprint == one.fingerprint) == (True, False)
    assert (other.id == one.id, other.fingerprint == one.fingerprint) == (False, True)
    assert rehearsal is None
