"""Accounts of other roles than a plain user's."""

from __future__ import annotations

from tests.support.client import PASSWORD, Client, unique


def with_role(admin: Client, role: str) -> Client:
    """A new account of `role`, signed in; only an admin can make one."""
    name = unique(role)
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "role": role}
    answer = admin.call("POST", "/users", body)
    assert answer.status_code == 201, answer.text
    return Client.login(admin.url, name)
