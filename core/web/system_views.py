"""What the routes of the system itself answer."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from core.web.answers import Time, View

Health = Literal["healthy", "degraded", "unhealthy"]


class PartHealth(View):
    """The health of a manager or a module, with figures of its own."""

    model_config = ConfigDict(extra="allow")

    status: Health


class HealthView(View):
    status: Health
    managers: dict[str, PartHealth]
    modules: dict[str, PartHealth]
    last_check: Time


class AliveView(View):
    status: Literal["alive"]
    last_check: Time


class ReadinessView(View):
    """`checks`: what no request can do without."""

    status: Literal["ready", "draining", "unavailable"]
    checks: dict[str, Health]
    last_check: Time


class WebKey(View):
    """A public key (RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class WebKeys(View):
    keys: list[WebKey]


class ModuleStatus(PartHealth):
    dependencies: list[str]
    routes: int


class ModulesView(View):
    modules: dict[str, ModuleStatus]


class TermsView(View):
    """`quota` requests at once, all of them again after `window` seconds."""

    policy: str
    algorithm: str
    quota: int
    window: int
    shadow: bool


class PolicyView(TermsView):
    types: list[str]


class PoliciesView(View):
    """`shadow`: all policies only count."""

    policies: list[PolicyView]
    shadow: bool


class StandingView(TermsView):
    used: int
    remaining: int
    reset: int


class BanTerms(View):
    policy: str
    level: int
    since: Time
    until: Time


class BanView(BanTerms):
    """`name` is a keyed hash of whom it is for, `id` who that is."""

    name: str
    type: str
    id: str


class LimitsView(View):
    """How an identifier stands; `banned_for`: seconds."""

    type: str
    allowed: bool
    policies: list[StandingView]
    violations: int
    banned_for: int
    ban: BanTerms | None
