"""The text of API keys: what is one, and that a typing error never passes for one."""

from __future__ import annotations

import math
import re
import string

from hypothesis import given
from hypothesis import strategies as st

from plugins.main_plugin.modules.connection_api.key_format import key_digest, key_id_of, make_key
from tools.logger.redaction import REDACTED, redact_text
from utils.ids import new_id

KEY_IDS = st.from_regex(r"k_[0-9a-f]{24}", fullmatch=True)
SIGNS = string.ascii_letters + string.digits + "_-"


def test_a_key_has_the_form_that_is_documented() -> None:
    assert re.fullmatch(r"ck_[0-9a-f]{24}_[0-9A-Za-z]{49}", make_key(new_id("k")))


def test_its_secret_has_256_bits_and_is_new_each_time() -> None:
    assert 43 * math.log2(62) >= 256
    key_id = new_id("k")
    keys = [make_key(key_id) for _ in range(200)]
    assert len({key[28:71] for key in keys}) == 200
    assert set("".join(key[28:71] for key in keys)) == set(string.ascii_letters + string.digits), "every sign is in use"


@given(KEY_IDS)
def test_a_key_tells_its_id(key_id: str) -> None:
    assert key_id_of(make_key(key_id)) == key_id


@given(KEY_IDS, st.data())
def test_no_key_with_one_wrong_sign_is_one(key_id: str, data: st.DataObject) -> None:
    key = make_key(key_id)
    at = data.draw(st.integers(0, len(key) - 1))
    sign = data.draw(st.sampled_from(SIGNS).filter(lambda sign: sign != key[at]))
    assert key_id_of(key[:at] + sign + key[at + 1 :]) is None


@given(KEY_IDS, st.data())
def test_no_key_that_is_cut_or_has_grown_is_one(key_id: str, data: st.DataObject) -> None:
    key = make_key(key_id)
    assert key_id_of(key[: data.draw(st.integers(0, len(key) - 1))]) is None
    assert key_id_of(key + data.draw(st.text(min_size=1, max_size=4))) is None


@given(st.text())
def test_any_other_text_is_none(text: str) -> None:
    assert key_id_of(text) is None


@given(KEY_IDS)
def test_a_log_never_shows_one(key_id: str) -> None:
    key = make_key(key_id)
    for text in (key, f"called with X-API-Key: {key}!", f"https://example.com/?key={key}&x=1"):
        assert key.rpartition("_")[2] not in redact_text(text)
        assert REDACTED in redact_text(text)


def test_the_digest_is_sha_256_and_another_for_every_key() -> None:
    key_id = new_id("k")
    digests = {key_digest(make_key(key_id)) for _ in range(10)}
    assert len(digests) == 10
    assert {len(digest) for digest in digests} == {32}
