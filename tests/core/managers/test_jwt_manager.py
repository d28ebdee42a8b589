"""Tokens: what is in them, what is refused, and sessions that end."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contracts import ACCESS, REFRESH, fingerprint_of
from core.managers import jwt_manager
from core.managers.jwt_manager import JWTManager
from tests.core.conftest import Factory
from tests.support.in_process import Managers
from tools.error_handling.errors import Unauthenticated
from tools.local_stack.redis_server import RedisServer
from utils.clock import utc_now
from utils.ids import new_id

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
    tokens._leave_flag(session_id)
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
