"""What is decided about commands: who may, what is replayed, what is remembered, and what stays a rehearsal."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from core.modules.transactions_module.commands import Claim, Command, Outcome, Snapshot, StoredAnswer, decide
from core.modules.transactions_module.ledger import Wallet
from core.modules.transactions_module.operations import Actor
from tests.support.money import ADMIN, START, command, debit, grant, transfer, user, wallet

NOW = START + timedelta(hours=1)


def run(*commands: Command, wallets: tuple[Wallet, ...] = (), answers: Any = None, references: Any = None) -> Outcome:
    own = wallets or (wallet("a", settled=100), wallet("b", "u_2"), wallet("ice", status="frozen", settled=5))
    return decide(Snapshot(deepcopy(list(own)), answers or {}, references or {}), commands, NOW)


def statuses(outcome: Outcome) -> list[int]:
    return [verdict.status for verdict in outcome.verdicts]


def code_of(outcome: Outcome, index: int = 0) -> str:
    code: str = json.loads(outcome.verdicts[index].body)["code"]
    return code


def test_commands_are_decided_in_order_each_seeing_the_ones_before() -> None:
    outcome = run(
        command(transfer("a", "b", 60)), command(transfer("a", "b", 60)), command(transfer("b", "a", 30)), command(transfer("a", "b", 60))
    )
    assert statuses(outcome) == [201, 402, 201, 201]
    assert {w.id: w.settled for _, w in outcome.wallets} == {"a": 10, "b": 90}
    assert [version for version, _ in outcome.wallets] == [0, 0]


def test_only_wallets_that_changed_are_written() -> None:
    outcome = run(command(debit("a", 1)), command(debit("b", 1)))
    assert [w.id for _, w in outcome.wallets] == ["a"]
    outcome = run(command(debit("b", 1)))
    assert outcome.wallets == []
    assert outcome.posted == []


def test_an_answer_says_what_was_posted() -> None:
    outcome = run(command(debit("a", 30, reference="r", memo="m", metadata={"k": 1})))
    body = json.loads(outcome.verdicts[0].body)
    assert body["entries"][0] == {"wallet_id": "a", "delta": -30, "seq": 1, "balance_after": 70, "held_after": 0}
    assert (body["type"], body["amount"], body["reference"], body["memo"], body["metadata"]) == ("debit", 30, "r", "m", {"k": 1})
    assert body["allocations"] == []
    granted = json.loads(run(command(grant("a", 5))).verdicts[0].body)
    assert (granted["grant"]["remaining"], granted["transaction"]["amount"]) == (5, 5)


# Who may


@pytest.mark.parametrize(
    ("actor", "draft", "status"),
    [
        (user("u_1"), debit("a", 1), 201),
        (user("u_1"), transfer("a", "b", 1), 201),
        (user("u_2"), debit("a", 1), 404),
        (user("u_2"), transfer("a", "b", 1), 404),
        (Actor("u_3", privileged=True, sees_all=False), debit("a", 1), 201),
        # Were a draft to slip through that takes from the system, nobody but the privileged could post it.
        (user("u_1"), grant("a", 1), 403),
        (user("u_1"), transfer("system:issuance", "a", 1), 404),
        (user("u_2"), transfer("system:issuance", "b", 1), 404),
    ],
)
def test_a_wallet_is_only_moved_by_its_owner_and_the_privileged(actor: Actor, draft: Any, status: int) -> None:
    outcome = run(command(draft, actor))
    assert statuses(outcome) == [status]
    assert len(outcome.posted) == (status == 201)


def test_somebody_elses_wallet_looks_like_none() -> None:
    mine, none = run(command(debit("a", 1), user("u_2"))), run(command(debit("nowhere", 1), user("u_2")))
    assert json.loads(mine.verdicts[0].body) == json.loads(none.verdicts[0].body)


@pytest.mark.parametrize(("actor", "seen"), [(user("u_1"), ["a"]), (ADMIN, ["a", "b"]), (Actor("u_9", True, False), [])])
def test_running_balances_are_shown_to_those_who_may_see_them(actor: Actor, seen: list[str]) -> None:
    body = json.loads(run(command(transfer("a", "b", 1), actor)).verdicts[0].body)
    assert [entry["wallet_id"] for entry in body["entries"] if "balance_after" in entry] == seen


# Idempotency


def test_the_same_key_with_the_same_request_is_replayed() -> None:
    first = command(debit("a", 10), key="k")
    done = run(first, command(debit("a", 10), key="k"), command(debit("a", 10), key="k"))
    assert statuses(done) == [201, 201, 201]
    assert [verdict.replayed for verdict in done.verdicts] == [False, True, True]
    assert len({verdict.body for verdict in done.verdicts}) == 1
    assert len(done.posted) == len(done.claimed) == 1
    assert first.claim is not None
    stored = {first.claim.id: StoredAnswer(first.claim.fingerprint, 201, done.verdicts[0].body)}
    again = run(command(debit("a", 10), key="k"), answers=stored)
    assert (statuses(again), again.verdicts[0].replayed, again.verdicts[0].body) == ([201], True, done.verdicts[0].body)
    assert again.posted == again.claimed == again.wallets == []


def test_the_same_key_with_another_request_is_refused_and_the_first_answer_stays() -> None:
    outcome = run(command(debit("a", 10), key="k"), command(debit("a", 11), key="k"), command(debit("a", 10), key="k"))
    assert statuses(outcome) == [201, 422, 201]
    assert code_of(outcome, 1) == "idempotency-key-reused"
    assert outcome.verdicts[2].replayed
    assert len(outcome.claimed) == 1


def test_a_key_belongs_to_its_user_and_route() -> None:
    outcome = run(command(debit("a", 1), ADMIN, "k"), command(debit("a", 1), user("u_1"), "k"), command(transfer("a", "b", 1), ADMIN, "k"))
    assert statuses(outcome) == [201, 201, 201]
    assert len(outcome.posted) == 3


@pytest.mark.parametrize(
    ("draft", "actor", "status", "kept"),
    [
        (debit("a", 101), ADMIN, 402, True),
        (debit("nowhere", 1), ADMIN, 404, True),
        (transfer("a", "a", 1), ADMIN, 422, True),
        (debit("ice", 1), ADMIN, 403, False),
    ],
)
def test_refusals_are_remembered_where_they_will_not_change_by_themselves(draft: Any, actor: Actor, status: int, kept: bool) -> None:
    outcome = run(command(draft, actor, "k"), command(draft, actor, "k"))
    assert statuses(outcome) == [status, status]
    assert outcome.verdicts[1].replayed is kept
    assert len(outcome.claimed) == kept
    assert outcome.posted == outcome.wallets == []


def test_a_fingerprint_does_not_depend_on_the_order_of_members() -> None:
    one = Claim.of("u", "POST /transfers", "k", {"a": 1, "b": {"c": 2, "d": 3}})
    assert one == Claim.of("u", "POST /transfers", "k", {"b": {"d": 3, "c": 2}, "a": 1})
    assert one.fingerprint != Claim.of("u", "POST /transfers", "k", {"a": 2, "b": {"c": 2, "d": 3}}).fingerprint
    others = [("v", "POST /transfers", "k"), ("u", "POST /debits", "k"), ("u", "POST /transfers", "l"), ("", "uPOST /transfers", "k")]
    assert len({one.id, *(Claim.of(*other, {}).id for other in others)}) == 5


def test_a_key_does_not_stand_in_its_claim() -> None:
    claim = Claim.of("u_canary", "POST /x", "key-canary", {"memo": "canary"})
    assert "canary" not in claim.id + claim.fingerprint


# References


def test_a_reference_is_used_once_in_its_wallet() -> None:
    outcome = run(
        command(debit("a", 1, reference="r")), command(transfer("a", "b", 1, reference="r")), command(grant("b", 1, reference="r"))
    )
    assert statuses(outcome) == [201, 409, 201]
    problem = json.loads(outcome.verdicts[1].body)
    assert (problem["code"], problem["transaction_id"]) == ("duplicate-reference", outcome.posted[0].transaction.id)


def test_a_reference_of_the_record_is_known() -> None:
    outcome = run(command(debit("a", 1, reference="r")), references={"a:r": "tx_old"})
    assert (statuses(outcome), json.loads(outcome.verdicts[0].body)["transaction_id"]) == ([409], "tx_old")


def test_a_refused_command_does_not_use_its_reference_up() -> None:
    outcome = run(command(debit("a", 101, reference="r")), command(debit("a", 1, reference="r")))
    assert statuses(outcome) == [402, 201]


# Dry runs


def test_a_dry_run_answers_like_the_real_one_and_keeps_nothing() -> None:
    outcome = run(
        command(debit("a", 60, reference="r"), dry_run=True), command(debit("a", 60, reference="r")), command(debit("a", 60), dry_run=True)
    )
    assert statuses(outcome) == [200, 201, 402]
    rehearsal, real = (json.loads(verdict.body) for verdict in outcome.verdicts[:2])
    assert rehearsal["entries"] == real["entries"]
    assert outcome.verdicts[0].transaction is None
    assert len(outcome.posted) == len(outcome.claimed) == 1


def test_a_dry_run_of_a_foreign_wallet_is_refused_too() -> None:
    assert statuses(run(command(debit("a", 1), user("u_2"), dry_run=True))) == [404]


def test_nothing_asked_is_nothing_decided() -> None:
    outcome = run()
    assert (outcome.verdicts, outcome.posted, outcome.claimed, outcome.wallets) == ([], [], [], [])
