"""Files that plugins serve: named by their content, kept by browsers for good, and nothing else of the folder's surroundings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from core.managers.base import BootError
from core.web.assets import Assets
from core.web.routing import PUBLIC, Answer, Call
from tools.error_handling.errors import NotFound

SCRIPT = "export const one = 1;\n"
Get = Callable[..., Answer]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.js").write_text(SCRIPT)
    (tmp_path / "page.css").write_text("body { margin: 0 }")
    return tmp_path


@pytest.fixture
def assets(folder: Path) -> Assets:
    return Assets(folder, "shop")


def get(assets: Assets, url: str, **headers: str) -> Answer:
    """What a request for `url` is answered."""
    version, name = url.split("/")[-2:]
    with Flask(__name__).test_request_context(headers=headers):
        params = {"version": version, "name": name}
        call = Call(params, None, None, None, assets.route.path, "req-1", "", "127.0.0.1", "", "", False)
        return assets.route.handler(call)


def test_the_route_is_public_and_lies_under_the_plugin(assets: Assets) -> None:
    assert assets.route.path == "/plugins/shop/assets/{version}/{name}"
    assert assets.route.roles == PUBLIC
    assert assets.url("page.js").startswith("/plugins/shop/assets/")


def test_a_file_is_served_as_what_it_is_and_kept_for_good(assets: Assets) -> None:
    answer = get(assets, assets.url("page.js"))
    assert (answer.status, answer.content) == (200, SCRIPT.encode())
    assert answer.content_type == "text/javascript; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert get(assets, assets.url("page.css")).content_type == "text/css; charset=utf-8"


def test_the_address_of_all_changes_with_any_of_them(folder: Path, assets: Assets) -> None:
    assert Assets(folder, "shop").url("page.js") == assets.url("page.js")
    (folder / "page.css").write_text("body { margin: 1px }")
    changed = Assets(folder, "shop")
    assert changed.url("page.js") != assets.url("page.js")
    # As it was read at the start: a release in the making is not served half.
    assert get(assets, assets.url("page.css")).content == b"body { margin: 0 }"


def test_who_has_a_file_already_is_told_so(assets: Assets) -> None:
    etag = get(assets, assets.url("page.js")).headers["ETag"]
    # A proxy that compresses makes a tag weak.
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = get(assets, assets.url("page.js"), **{"If-None-Match": known})
        assert (answer.status, answer.content) == (304, None)
        assert answer.headers["ETag"] == etag
    assert get(assets, assets.url("page.js"), **{"If-None-Match": '"other"'}).status == 200


def test_the_page_of_another_release_gets_what_there_is_and_does_not_keep_it(assets: Assets) -> None:
    answer = get(assets, "/plugins/shop/assets/0123456789abcdef/page.js")
    assert answer.content == SCRIPT.encode()
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["other.js", "..", "PAGE.JS", ""])
def test_what_is_not_in_the_folder_is_not_there(assets: Assets, name: str) -> None:
    with pytest.raises(NotFound):
        get(assets, f"/plugins/shop/assets/1/{name}")
    with pytest.raises(KeyError):
        assets.url(name)


def test_a_file_of_an_unknown_kind_stops_the_boot_by_name(folder: Path) -> None:
    (folder / "notes.odt").write_bytes(b"")
    with pytest.raises(BootError, match=r"^asset notes\.odt: "):
        Assets(folder, "shop")
