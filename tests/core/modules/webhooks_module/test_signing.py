"""What we sign, receivers can verify as docs/webhooks.md tells them to: the very code of that page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.modules.webhooks_module.signing import delivery_headers, make_secret, signature

DOCS = (Path(__file__).parents[4] / "docs" / "webhooks.md").read_text(encoding="utf-8")
NOW = 1_795_000_000
BODY = '{"id":"ev_1_0","data":{"memo":"für Zoë"}}'.encode()


def code(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)
    return str(found)


def headers_for(secret: str, body: bytes) -> dict[str, str]:
    return delivery_headers(secret, NOW, body, event_id="ev_1_0", event_type="alert.crossed", delivery_id="wd_1")


def test_the_signature_is_that_of_the_formula() -> None:
    """Reckoned with `printf '1795000000.{}' | openssl dgst -sha256 -hmac whsec_test`."""
    assert signature("whsec_test", NOW, b"{}") == "v1=f50cd36baaae795dac63f86cd686693bcb16ea422cd6f180232b0f6ed3a6367d"


def test_no_two_secrets_are_the_same() -> None:
    assert make_secret() != make_secret()


def cases(secret: str) -> dict[str, tuple[dict[str, str], bytes, float]]:
    good = headers_for(secret, BODY)
    return {
        "good": (good, BODY, NOW + 299),
        "other secret": (headers_for("whsec_other", BODY), BODY, NOW),
        "other body": (good, BODY + b" ", NOW),
        "too old": (good, BODY, NOW + 301),
        "from the future": (good, BODY, NOW - 301),
        "other time": ({**good, "X-Credit-Timestamp": str(NOW + 1)}, BODY, NOW),
        "no signature": ({key: value for key, value in good.items() if key != "X-Credit-Signature"}, BODY, NOW),
        "no time": ({key: value for key, value in good.items() if key != "X-Credit-Timestamp"}, BODY, NOW),
        "odd time": ({**good, "X-Credit-Timestamp": "1e9"}, BODY, NOW),
    }


@pytest.mark.parametrize("name", cases(""))
def test_python_receivers_tell_ours_from_others(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(code("python"), scope)
    secret = make_secret()
    headers, body, now = cases(secret)[name]
    assert scope["is_ours"](secret, headers, body, now) is (name == "good")


def test_javascript_receivers_tell_ours_from_others() -> None:
    secret = make_secret()
    given = {
        name: [secret, {key.lower(): value for key, value in headers.items()}, body.decode(), now]
        for name, (headers, body, now) in cases(secret).items()
    }
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs Node.js: apt-get install nodejs")
    script = f"{code('js')}\nfor (const [name, [secret, headers, body, now]] of Object.entries({json.dumps(given)}))"
    script += "console.log(JSON.stringify([name, isOurs(secret, headers, Buffer.from(body), now)]));"
    ran = subprocess.run([program, "-e", script], capture_output=True, text=True, check=True, timeout=30)
    verdicts = dict(json.loads(line) for line in ran.stdout.splitlines())
    assert verdicts == {name: name == "good" for name in cases(secret)}


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_other_body_has_the_signature(body: bytes, other: bytes) -> None:
    assert (signature("whsec_test", NOW, body) == signature("whsec_test", NOW, other)) == (body == other)
