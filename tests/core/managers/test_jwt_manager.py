"""Tokens: what is in them, what is refused, and sessions that end."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from core.contracts import ACCESS, REFRESH, fingerprint_of
from core.managers import jwt_manager
from core.managers.jwt_keys import EDDSA, HS256, TokenKey, make_key
from core.managers.jwt_manager import JWTManager
from tests.core.conftest import Factory
from tests.support.at_once import at_once
from tests.support.in_process import Managers
from tools.error_handling.errors import Unauthenticated
from tools.local_stack.redis_server import RedisServer
from utils.clock import utc_now
from utils.config.config import load_config
from utils.ids import new_id
from utils.keys import stretch

OLD, NEW = "old key material of 32 characters", "new key material of 32 characters"
CLAIMS = {"sub", "sid", "jti", "iat", "nbf", "exp", "iss", "aud", "typ", "role", "fpt"}


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory) -> Managers:
    return app_manager_factory("database", "redis", "jwt", "encryption", "hooks")


@pytest.fixture(scope="module")
def tokens(managers: Managers) -> JWTManager:
    manager: JWTManager = managers.jwt_manager
    return manager


def parts_of(tokens: JWTManager, token: str, kind: str = ACCESS) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, as whoever has our key could change and sign them again."""
    return jwt.get_unverified_header(token), tokens.validate_token(token, kind)


def secret_of(tokens: JWTManager, kind: str = ACCESS) -> bytes:
    key = tokens._ring.signers[kind].signing
    assert isinstance(key, bytes)
    return key


def sign(tokens: JWTManager, claims: dict[str, Any], header: dict[str, Any], kind: str = ACCESS) -> str:
    return jwt.encode(claims, secret_of(tokens, kind), algorithm="HS256", headers=header)


def refused(tokens: JWTManager, token: Any, code: str = "token-invalid", **how: Any) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        tokens.validate_token(token, **how)
    assert refusal.value.code == code
    assert not tokens.is_token_valid(token, **{key: value for key, value in how.items() if key == "kind"}) or "fingerprint" in how


def test_a_token_says_whose_it_is_and_for_how_long(tokens: JWTManager, managers: Managers) -> None:
    claims = tokens.validate_token(tokens.generate_token("u_1", "admin", session_id="s_1"))
    assert set(claims) == CLAIMS
    assert (claims["sub"], claims["role"], claims["sid"], claims["typ"]) == ("u_1", "admin", "s_1", ACCESS)
    assert claims["exp"] - claims["iat"] == managers.config["JWT_ACCESS_TTL"]
    assert (claims["iss"], claims["aud"]) == (managers.config["JWT_ISSUER"], managers.config["JWT_AUDIENCE"])


def test_the_usage_of_the_managers_overview_works(tokens: JWTManager) -> None:
    token = tokens.generate_token(user_id="123", role="user")
    assert tokens.validate_token(token)["sub"] == "123"
    assert tokens.is_token_valid(token) is True
    assert tokens.is_token_valid("nonsense") is False


def test_no_two_tokens_are_the_same(tokens: JWTManager) -> None:
    assert len({tokens.generate_token("u_1", session_id="s_1") for _ in range(50)}) == 50


def test_a_pair_belongs_to_one_session_and_tells_the_refresh_tokens_id(tokens: JWTManager, managers: Managers) -> None:
    pair = tokens.generate_pair("u_1", "user", "s_1", "print")
    access, refresh = tokens.validate_token(pair.access_token), tokens.validate_token(pair.refresh_token, REFRESH)
    assert access["sid"] == refresh["sid"] == pair.session_id == "s_1"
    assert refresh["jti"] == pair.refresh_jti != access["jti"]
    assert access["fpt"] == refresh["fpt"] == "print"
    assert pair.expires_in == managers.config["JWT_ACCESS_TTL"]
    assert refresh["exp"] - refresh["iat"] == managers.config["JWT_REFRESH_TTL"]


def test_neither_kind_passes_for_the_other(tokens: JWTManager) -> None:
    pair = tokens.generate_pair("u_1", "user", "s_1")
    refused(tokens, pair.refresh_token)
    refused(tokens, pair.access_token, kind=REFRESH)
    # Not even with the right key: the type is checked in the header and in the claims.
    header, claims = parts_of(tokens, pair.access_token)
    refused(tokens, sign(tokens, {**claims, "typ": REFRESH}, header))
    refused(tokens, sign(tokens, claims, {**header, "typ": "rt+jwt"}))
    refused(tokens, sign(tokens, claims, {**header, "typ": "JWT"}))


@pytest.mark.parametrize("claim", sorted(CLAIMS))
def test_a_token_without_one_of_its_claims_is_refused(claim: str, tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    refused(tokens, sign(tokens, {name: value for name, value in claims.items() if name != claim}, header))


@pytest.mark.parametrize(
    "change",
    [{"iss": "someone"}, {"aud": "others"}, {"aud": ["credit-system"]}, {"sub": 1}, {"exp": "x"}, {"nbf": 2**40}, {"iat": 2**40}],
    ids=str,
)
def test_a_claim_that_is_wrong_is_refused(change: dict[str, Any], tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    if isinstance(change.get("sub"), int):
        # PyJWT's encoder refuses this one itself, so its check has to be passed by.
        token = jwt.api_jws.encode(b'{"sub":1}', secret_of(tokens), algorithm="HS256", headers=header)
    else:
        token = sign(tokens, {**claims, **change}, header)
    refused(tokens, token)


def test_an_expired_token_says_so(tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    refused(tokens, sign(tokens, {**claims, "exp": int(time.time()) - 31}, header), code="token-expired")


def test_clocks_may_differ_by_half_a_minute(tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    now = int(time.time())
    for shift in ({"exp": now - 25}, {"nbf": now + 25}, {"iat": now + 25}):
        assert tokens.is_token_valid(sign(tokens, {**claims, **shift}, header))


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_another_algorithm_is_refused(algorithm: str, tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    key = None if algorithm == "none" else secret_of(tokens) * 2
    refused(tokens, jwt.encode(claims, key, algorithm=algorithm, headers={"typ": header["typ"], "kid": header["kid"]}))


def test_a_token_of_another_secret_is_refused(tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    refused(tokens, jwt.encode(claims, "another secret of a good length!!", algorithm="HS256", headers=header))


@given(st.text(max_size=80) | st.from_regex(r"[\w-]{0,30}\.[\w-]{0,30}\.[\w-]{0,30}", fullmatch=True))
def test_any_other_text_is_refused(tokens: JWTManager, text: str) -> None:
    refused(tokens, text)


@given(st.data())
def test_a_token_of_which_a_character_was_altered_is_refused(tokens: JWTManager, data: st.DataObject) -> None:
    token = tokens.generate_token("u_1", "user")
    # The last character of a signature has two bits that mean nothing.
    place = data.draw(st.integers(0, len(token) - 2))
    altered = token[:place] + data.draw(st.sampled_from("ABCabc019-_.=")) + token[place + 1 :]
    if altered != token:
        refused(tokens, altered)


@pytest.mark.parametrize(
    "token", ["." * 100_000, "a" * 200_000, "[" * 50_000, "\x00", "\ud800", "é.é.é", "", " "], ids=lambda t: repr(t[:3])
)
def test_what_is_thrown_at_it_is_refused_and_nothing_worse(token: str, tokens: JWTManager) -> None:
    refused(tokens, token)


def test_a_token_is_bound_to_the_fingerprint_of_its_client(tokens: JWTManager) -> None:
    mine, other = fingerprint_of("browser one"), fingerprint_of("browser two")
    bound = tokens.generate_token("u_1", fingerprint=mine)
    assert tokens.validate_token(bound, fingerprint=mine)["fpt"] == mine
    assert tokens.validate_token(bound)["fpt"] == mine
    for wrong in (other, ""):
        with pytest.raises(Unauthenticated):
            tokens.validate_token(bound, fingerprint=wrong)
    assert tokens.is_token_valid(tokens.generate_token("u_1"))


def test_a_fingerprint_never_shows_the_clients_value() -> None:
    assert "browser" not in fingerprint_of("browser one")
    assert fingerprint_of("") == fingerprint_of(None) == ""


# Sessions


def new_session(managers: Managers, life: timedelta = timedelta(hours=1)) -> str:
    session_id = new_id("s")
    row = {"_id": session_id, "user_id": "u_1", "revoked_at": None, "created_at": utc_now(), "expires_at": utc_now() + life}
    managers.database_manager.insert_one("user_sessions", row)
    return session_id


def flag_of(managers: Managers, session_id: str) -> bytes | None:
    flag: bytes | None = managers.redis_manager._client.get(managers.jwt_manager.session_key(session_id))
    return flag


def test_a_session_is_active_until_it_is_revoked_for_ever(managers: Managers, tokens: JWTManager) -> None:
    session_id = new_session(managers)
    assert tokens.is_session_active(session_id)
    assert flag_of(managers, session_id) == b"1"
    tokens.revoke_session(session_id)
    assert flag_of(managers, session_id) == b"0"
    assert not tokens.is_session_active(session_id)
    managers.redis_manager.delete(tokens.session_key(session_id))
    assert not tokens.is_session_active(session_id)
    assert flag_of(managers, session_id) is None


def test_asking_does_not_bring_a_revoked_session_back(managers: Managers, tokens: JWTManager) -> None:
    session_id = new_session(managers)
    tokens.revoke_session(session_id)
    tokens.leave_flag(session_id)
    assert flag_of(managers, session_id) == b"0"


def test_an_expired_or_unknown_session_is_not_active(managers: Managers, tokens: JWTManager) -> None:
    assert not tokens.is_session_active(new_session(managers, life=timedelta(seconds=-1)))
    assert not tokens.is_session_active("s_unknown")


def test_who_listens_hears_of_all_sessions_that_were_revoked(managers: Managers, tokens: JWTManager) -> None:
    heard: list[list[str]] = []
    managers.hooks_manager.register_hook("session_revoked", heard.append)
    sessions = [new_session(managers) for _ in range(3)]
    tokens.revoke_sessions(sessions)
    tokens.revoke_sessions([])
    assert heard == [sessions]
    assert not any(tokens.is_session_active(session_id) for session_id in sessions)


def test_whether_a_session_was_revoked_is_told_by_flag_or_record(managers: Managers, tokens: JWTManager) -> None:
    living, ended = new_session(managers), new_session(managers)
    tokens.revoke_session(ended)
    for _ in range(2):
        assert not tokens.is_session_revoked(living)
        assert tokens.is_session_revoked(ended)
        # And once more by the record.
        managers.redis_manager.delete(tokens.session_key(living), tokens.session_key(ended))
    assert not tokens.is_session_revoked("s_never_recorded")


def test_the_living_among_many_sessions_are_found_at_once(managers: Managers, tokens: JWTManager) -> None:
    sessions = [new_session(managers) for _ in range(3)]
    tokens.revoke_session(sessions[1])
    expired = new_session(managers, life=timedelta(seconds=-1))
    assert tokens.active_sessions([*sessions, expired, "s_unknown"]) == {sessions[0], sessions[2]}
    assert tokens.active_sessions([]) == set()


def test_a_token_of_a_revoked_session_is_refused(managers: Managers, tokens: JWTManager) -> None:
    session_id = new_session(managers)
    token = tokens.generate_token("u_1", session_id=session_id)
    assert tokens.is_token_valid(token)
    tokens.revoke_session(session_id)
    refused(tokens, token, code="session-revoked")
    assert tokens.read_token(token)["sid"] == session_id, "for those who ask about the session themselves"


def test_the_record_answers_while_redis_is_away(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    managers = app_manager_factory("database", "redis", "jwt", "hooks", REDIS_URL=own_redis.url)
    session_id = new_session(managers)
    token = managers.jwt_manager.generate_token("u_1", session_id=session_id)
    own_redis.kill()
    assert managers.jwt_manager.is_session_active(session_id)
    assert managers.jwt_manager.is_token_valid(token)
    managers.jwt_manager.revoke_session(session_id)
    assert not managers.jwt_manager.is_session_active(session_id)
    assert not managers.jwt_manager.is_token_valid(token)


def test_a_redis_that_comes_back_hears_of_what_was_revoked_meanwhile(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    managers = app_manager_factory("database", "redis", "jwt", "hooks", REDIS_URL=own_redis.url, REDIS_TIMEOUT=0.2)
    session_id, heard = new_session(managers), []
    managers.hooks_manager.register_hook("session_revoked", heard.extend)
    assert managers.jwt_manager.is_session_active(session_id)
    own_redis.pause()
    managers.jwt_manager.revoke_session(session_id)
    own_redis.resume()
    ended = time.monotonic() + 10
    while heard != [session_id]:
        assert time.monotonic() < ended
        time.sleep(0.05)
    assert flag_of(managers, session_id) == b"0"


# What was verified before


def test_a_token_that_was_verified_before_still_ends(tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    # Within the leeway for one more second.
    token = sign(tokens, {**claims, "exp": int(time.time()) - 28}, header)
    assert tokens.read_token(token)["sub"] == "u_1"
    ended = time.monotonic() + 5
    while tokens.is_token_valid(token):
        assert time.monotonic() < ended
        time.sleep(0.1)
    refused(tokens, token, code="token-expired")


def test_a_token_that_was_verified_before_is_still_bound_to_its_kind_and_client(tokens: JWTManager) -> None:
    token = tokens.generate_token("u_1", fingerprint=fingerprint_of("mine"))
    assert tokens.read_token(token, fingerprint=fingerprint_of("mine"))
    refused(tokens, token, kind=REFRESH)
    refused(tokens, token, fingerprint=fingerprint_of("other"))


def test_whoever_gets_claims_cannot_change_those_of_the_next(tokens: JWTManager) -> None:
    token = tokens.generate_token("u_1", "user")
    tokens.read_token(token)["role"] = "admin"
    tokens.read_token(token)["role"] = "admin"
    assert tokens.read_token(token)["role"] == "user"


def test_what_is_remembered_of_tokens_has_an_end(tokens: JWTManager) -> None:
    for _ in range(300):
        tokens.read_token(tokens.generate_token("u_1"))
    assert len(tokens._ring.verified) <= jwt_manager._VERIFIED_MAX
    tokens._ring.verified.update({("access", str(number)): {} for number in range(jwt_manager._VERIFIED_MAX)})
    tokens.read_token(tokens.generate_token("u_1"))
    assert len(tokens._ring.verified) == 1


# The managers overview and the deep dive, line by line


def test_token_generation_and_signing(tokens: JWTManager) -> None:
    header = jwt.get_unverified_header(tokens.generate_token(user_id="123", role="user"))
    assert (header["alg"], header["typ"]) == ("HS256", "at+jwt")
    assert header["kid"] == tokens._ring.signers[ACCESS].id


def test_token_validation_and_expiration_handling(app_manager_factory: Factory) -> None:
    tokens = app_manager_factory("database", "redis", "jwt", JWT_ACCESS_TTL=1).jwt_manager
    assert tokens.validate_token(tokens.generate_token("123"))["exp"] == pytest.approx(time.time() + 1, abs=2)


def test_creates_tokens_with_expiration_and_client_fingerprint(tokens: JWTManager) -> None:
    claims = tokens.validate_token(tokens.generate_token("123", fingerprint=fingerprint_of("mine")))
    assert claims["exp"] > claims["iat"]
    assert claims["fpt"] == fingerprint_of("mine")


def test_claims_validation_and_extraction(tokens: JWTManager) -> None:
    claims = tokens.validate_token(tokens.generate_token(user_id="123", role="analyst", session_id="s_9"))
    assert (claims["sub"], claims["role"], claims["sid"]) == ("123", "analyst", "s_9")


def test_stores_tokens_in_redis_for_revocation(managers: Managers, tokens: JWTManager) -> None:
    token = tokens.generate_token("123", session_id=new_session(managers))
    tokens.revoke_token(token)
    assert flag_of(managers, tokens.read_token(token)["sid"]) == b"0"
    refused(tokens, token, code="session-revoked")


def test_verifies_tokens_checks_revocation_and_enforces_type_and_fingerprint(managers: Managers, tokens: JWTManager) -> None:
    pair = tokens.generate_pair("123", "user", new_session(managers), fingerprint_of("mine"))
    assert tokens.validate_token(pair.access_token, fingerprint=fingerprint_of("mine"))
    refused(tokens, pair.access_token[:-4] + "AAAA")
    refused(tokens, pair.refresh_token)
    refused(tokens, pair.access_token, fingerprint=fingerprint_of("other"))
    tokens.revoke_session(pair.session_id)
    refused(tokens, pair.access_token, code="session-revoked")


# Revocation: Redis answers, MongoDB knows


def test_what_was_revoked_stays_so_when_redis_is_wiped_away_and_back(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    managers = app_manager_factory("database", "redis", "jwt", "hooks", REDIS_URL=own_redis.url, REDIS_TIMEOUT=0.2)
    tokens = managers.jwt_manager
    # One that a log-in recorded, and one that nobody did.
    both = [tokens.generate_token("123", session_id=new_session(managers)), tokens.generate_token("123")]
    for token in both:
        assert tokens.is_token_valid(token)
        tokens.revoke_token(token)
        tokens.revoke_token(token)
    managers.redis_manager._client.flushall()
    for token in both:
        refused(tokens, token, code="session-revoked")
        assert not tokens.is_session_active(tokens.read_token(token)["sid"])
    own_redis.kill()
    for token in both:
        refused(tokens, token, code="session-revoked")
    own_redis.start()
    for token in both:
        refused(tokens, token, code="session-revoked")


# Refresh


def recorded_pair(managers: Managers, **how: Any) -> Any:
    """The pair of a session that the record knows, as after a log-in."""
    session_id = new_session(managers)
    pair = managers.jwt_manager.generate_pair("u_1", "user", session_id, **how)
    fields = {"$set": {"refresh_jti": pair.refresh_jti}}
    managers.database_manager.update_one("user_sessions", {"_id": session_id}, fields)
    return pair


def test_refresh_token_management(managers: Managers, tokens: JWTManager) -> None:
    pair = recorded_pair(managers, fingerprint="mine")
    newer = tokens.refresh_token(pair.refresh_token, role="admin", fingerprint="mine")
    claims = tokens.validate_token(newer.access_token)
    assert (claims["sub"], claims["role"], claims["sid"], claims["fpt"]) == ("u_1", "admin", pair.session_id, "mine")
    newest = tokens.refresh_token(newer.refresh_token)
    assert tokens.validate_token(newest.access_token)["role"] == "admin"


def test_a_refresh_token_that_comes_again_ends_its_session(managers: Managers, tokens: JWTManager) -> None:
    pair = recorded_pair(managers)
    newer = tokens.refresh_token(pair.refresh_token)
    for token, code in ((pair.refresh_token, "refresh-reused"), (newer.refresh_token, "session-revoked")):
        with pytest.raises(Unauthenticated) as refusal:
            tokens.refresh_token(token)
        assert refusal.value.code == code
    refused(tokens, newer.access_token, code="session-revoked")


def test_of_many_who_bring_the_same_refresh_token_at_most_one_gets_a_new_one(managers: Managers, tokens: JWTManager) -> None:
    pair = recorded_pair(managers)

    def refresh(_: int) -> bool:
        try:
            tokens.refresh_token(pair.refresh_token)
        except Unauthenticated:
            return False
        return True

    assert sum(at_once(8, refresh)) == 1


def test_only_a_refresh_token_of_this_client_is_taken(managers: Managers, tokens: JWTManager) -> None:
    pair = recorded_pair(managers, fingerprint="mine")
    for token, fingerprint in ((pair.access_token, "mine"), (pair.refresh_token, "other")):
        with pytest.raises(Unauthenticated) as refusal:
            tokens.refresh_token(token, fingerprint=fingerprint)
        assert refusal.value.code == "token-invalid"
    assert tokens.refresh_token(pair.refresh_token, fingerprint="mine")


# Key rings


Rings = Callable[[list[str]], Path]


@pytest.fixture
def running(app_manager_factory: Factory, rings: Rings) -> Managers:
    return app_manager_factory("database", "redis", "jwt", SECRETS_DIR=rings([OLD]))


def give(managers: Managers, environ: dict[str, str], secrets: Path, **settings: str) -> None:
    """What the settings are from now on, and that they are."""
    managers.config = load_config(None, {**environ, **settings, "SECRETS_DIR": str(secrets)})
    managers.jwt_manager.reload()


def test_old_keys_verify_until_they_are_taken_away(running: Managers, environ: dict[str, str], rings: Rings) -> None:
    tokens = running.jwt_manager
    assert "JWT_SECRET" in tokens.live_settings
    pair = tokens.generate_pair("u_1", "user", "s_1")
    give(running, environ, rings([OLD, NEW]))
    first = jwt.get_unverified_header(pair.access_token)["kid"]
    assert jwt.get_unverified_header(tokens.generate_token("u_1"))["kid"] == first, "a new key that comes last does not sign"
    give(running, environ, rings([NEW, OLD]))
    assert jwt.get_unverified_header(tokens.generate_token("u_1"))["kid"] != first
    assert tokens.validate_token(pair.access_token)["sub"] == tokens.read_token(pair.refresh_token, REFRESH)["sub"] == "u_1"
    # It was verified a moment ago, and is remembered; its key ends that too.
    give(running, environ, rings([NEW]))
    refused(tokens, pair.access_token)
    refused(tokens, pair.refresh_token, kind=REFRESH)


def test_what_is_verified_while_its_key_is_taken_away_is_not_remembered(
    running: Managers, environ: dict[str, str], rings: Rings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = running.jwt_manager
    token = tokens.generate_token("u_1")
    verify = tokens._verify

    def take_away_meanwhile(*args: Any) -> Any:
        claims = verify(*args)
        give(running, environ, rings([NEW]))
        return claims

    monkeypatch.setattr(tokens, "_verify", take_away_meanwhile)
    tokens.read_token(token)
    monkeypatch.undo()
    refused(tokens, token)


def test_a_worker_that_has_the_new_key_last_takes_what_it_signed_elsewhere(app_manager_factory: Factory, rings: Rings) -> None:
    ahead = app_manager_factory("database", "redis", "jwt", SECRETS_DIR=rings([NEW, OLD])).jwt_manager
    behind = app_manager_factory("database", "redis", "jwt", SECRETS_DIR=rings([OLD, NEW])).jwt_manager
    assert behind.is_token_valid(ahead.generate_token("u_1"))
    assert ahead.is_token_valid(behind.generate_token("u_1"))


def test_a_ring_that_cannot_be_used_changes_nothing(running: Managers) -> None:
    tokens = running.jwt_manager
    token = tokens.generate_token("u_1")
    running.config = {**running.config, "JWT_SECRET": "\n \n"}  # type: ignore[assignment]
    with pytest.raises(ValueError, match="without a key"):
        tokens.reload()
    assert tokens.is_token_valid(token)
    assert tokens.health_check()["keys"] == 1


def test_key_ids_differ_by_key_kind_and_algorithm_and_show_nothing_of_the_key() -> None:
    masters = [stretch(material, "credit-system/jwt") for material in (OLD, NEW)]
    keys = [make_key(master, kind, algorithm) for master in masters for kind in (ACCESS, REFRESH) for algorithm in (HS256, EDDSA)]
    assert len({key.id for key in keys}) == 8
    assert len({key.signing for key in keys if isinstance(key.signing, bytes)}) == 4
    for key in keys:
        assert len(base64.urlsafe_b64decode(key.id)) == 9
        assert not isinstance(key.signing, bytes) or base64.urlsafe_b64decode(key.id) not in key.signing


# EdDSA, and tokens that choose their own algorithm


@pytest.fixture(scope="module")
def signed(app_manager_factory: Factory) -> JWTManager:
    """A manager that signs with Ed25519."""
    manager: JWTManager = app_manager_factory("database", "redis", "jwt", "hooks", JWT_ALGORITHM=EDDSA).jwt_manager
    return manager


def raw_public(key: TokenKey) -> bytes:
    assert isinstance(key.verifying, Ed25519PublicKey)
    return key.verifying.public_bytes(Encoding.Raw, PublicFormat.Raw)


def test_tokens_are_signed_by_eddsa_where_that_is_set(signed: JWTManager) -> None:
    pair = signed.generate_pair("u_1", "user", "s_1", "print")
    assert jwt.get_unverified_header(pair.access_token)["alg"] == jwt.get_unverified_header(pair.refresh_token)["alg"] == "EdDSA"
    assert signed.validate_token(pair.access_token, fingerprint="print")["sub"] == "u_1"
    refused(signed, pair.refresh_token)
    refused(signed, pair.access_token, kind=REFRESH)
    assert signed.health_check()["algorithm"] == "EdDSA"


def test_tokens_outlive_a_change_of_the_algorithm(signed: JWTManager, tokens: JWTManager) -> None:
    assert signed.is_token_valid(tokens.generate_token("u_1"))
    assert tokens.is_token_valid(signed.generate_token("u_1"))


def test_another_service_can_verify_access_tokens_by_the_published_keys_and_nothing_else(signed: JWTManager, tokens: JWTManager) -> None:
    assert tokens.public_keys() == []
    published = jwt.PyJWKSet.from_dict({"keys": signed.public_keys()})
    pair = signed.generate_pair("u_1", "user", "s_1")
    key = published[jwt.get_unverified_header(pair.access_token)["kid"]]
    assert jwt.decode(pair.access_token, key, algorithms=["EdDSA"], audience="credit-system")["sub"] == "u_1"
    with pytest.raises(KeyError):
        published[jwt.get_unverified_header(pair.refresh_token)["kid"]]
    assert all(set(each) == {"kty", "crv", "x", "kid", "use", "alg"} for each in signed.public_keys())


def forged(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """HS256 over whatever header and claims, with none of an encoder's checks."""
    signing = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims))
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signing.encode(), key)
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def test_a_public_key_is_no_shared_key(signed: JWTManager) -> None:
    """The classic confusion: what everybody may know, used as the secret of HS256."""
    token = signed.generate_token("u_1")
    header, claims = jwt.get_unverified_header(token), signed.read_token(token)
    key = signed._ring.signers[ACCESS]
    assert isinstance(key.verifying, Ed25519PublicKey)
    pem = key.verifying.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (raw_public(key), pem, pem.strip(), json.dumps(signed.public_keys()[0]).encode(), key.id.encode()):
        refused(signed, forged({**header, "alg": "HS256"}, claims, secret))
        refused(signed, forged(header, claims, secret))
    for nothing in ("none", "None", "NONE", ""):
        refused(signed, forged({**header, "alg": nothing}, claims, b""))
        refused(signed, forged({**header, "alg": nothing}, claims, b"").rpartition(".")[0] + ".")


def test_a_key_of_one_algorithm_does_not_verify_another(tokens: JWTManager, signed: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    eddsa = signed._ring.signers[ACCESS]
    # Both keys are in both rings, each under its own id.
    assert (ACCESS, eddsa.id) in tokens._ring.keys
    for key_id, taken in ((eddsa.id, True), (header["kid"], False)):
        headers = {"typ": header["typ"], "kid": key_id}
        assert tokens.is_token_valid(jwt.encode(claims, eddsa.signing, algorithm="EdDSA", headers=headers)) is taken
    refused(tokens, sign(tokens, claims, {**header, "kid": eddsa.id}))


@pytest.mark.parametrize(
    "key_id",
    ["unknown", "", "../../etc/passwd", "' or 1=1", None, 1, True, ["a"], {"a": 1}, 1e308, "x" * 10_000],
    ids=lambda k: repr(k)[:12],
)
def test_a_key_id_that_is_not_ours_is_refused_whatever_it_is(key_id: Any, tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    refused(tokens, forged({**header, "kid": key_id}, claims, secret_of(tokens)))


def test_a_token_without_a_key_id_is_refused(tokens: JWTManager) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    refused(tokens, forged({name: value for name, value in header.items() if name != "kid"}, claims, secret_of(tokens)))
    assert tokens.is_token_valid(forged(header, claims, secret_of(tokens))), "so it is the key id that is missed"


Header = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "x5u", "zip"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["HS256", "EdDSA", "none", "at+jwt"])
    | st.lists(st.text(max_size=3)),
    min_size=1,
)


@given(Header)
def test_whatever_else_a_header_says_is_refused(tokens: JWTManager, changes: dict[str, Any]) -> None:
    """With the right key and claims: a changed algorithm, type or key id is refused, and nothing raises another error."""
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    changed = {**header, **changes}
    token = forged(changed, claims, secret_of(tokens))
    if all(changed.get(name) == header[name] for name in ("alg", "typ", "kid")) and not {"crit", "b64"}.intersection(changes):
        assert tokens.is_token_valid(token), "what we do not know is not looked at"
    elif any(changed.get(name) != header[name] for name in ("alg", "typ", "kid")):
        refused(tokens, token)
    else:
        tokens.is_token_valid(token)


@given(
    st.dictionaries(
        st.sampled_from(sorted(CLAIMS)), st.none() | st.booleans() | st.integers() | st.floats() | st.lists(st.text()), min_size=1
    )
)
def test_claims_of_strange_types_never_lead_to_anything_but_a_refusal(tokens: JWTManager, changes: dict[str, Any]) -> None:
    header, claims = parts_of(tokens, tokens.generate_token("u_1"))
    token = forged(header, {**claims, **changes}, secret_of(tokens))
    assert tokens.is_token_valid(token) in (True, False)
