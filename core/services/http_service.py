"""HttpService: an external service that is called with JSON over HTTP; what it may cost, and what it may do to us, is bounded."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import certifi
from urllib3 import BaseHTTPResponse, Retry, Timeout
from urllib3.exceptions import EmptyPoolError, HTTPError, InvalidHeader

from core import metrics
from core.services.addresses import LEAST_PENDING, ROUND_ROBIN, Address, Addresses, Endpoint, NoAddress, Resolve, may_connect, resolve_host
from core.services.messages import BadAnswer, Reply, ServiceRequest, check_headers
from core.services.retry_budget import RetryBudget
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log
from utils import deadline
from utils.background import Ticker
from utils.breaker import CircuitBreaker
from utils.green import TimeLimitReached, time_limit

_BREAKER_FAILURES = 5
_BREAKER_SECONDS = 10.0
_PAUSE_SECONDS, _PAUSE_MAX_SECONDS = 0.05, 1.0
_CHUNK = 65_536


@dataclass(eq=False)
class HttpService:
    """An external service: where it is, and what a call may cost. Registered with the ServicesManager, and called there.

    `urls`: one address or several; a host name stands for all of its addresses. `timeout`: seconds for each attempt.
    `private`: it is in our own network (loopback, RFC 1918, ...), where no other service may be. `probe`: ask every address
    for `health_path` each `upkeep_seconds`, when names are resolved anew too. `headers`: sent with each call, never logged.
    Raises ValueError for what cannot be used.
    """

    urls: str | Sequence[str]
    timeout: float = 2.0
    health_path: str = "/health"
    balance: str = ROUND_ROBIN
    private: bool = False
    probe: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    attempts: int = 3
    max_answer_bytes: int = 1_048_576
    connections: int = 16
    upkeep_seconds: float = 30.0
    eject_seconds: float = 5.0
    breaker: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(_BREAKER_FAILURES, _BREAKER_SECONDS))
    budget: RetryBudget = field(default_factory=RetryBudget)
    resolve: Resolve = resolve_host

    def __post_init__(self) -> None:
        self.name = "service"
        endpoints = [Endpoint.of(url) for url in ((self.urls,) if isinstance(self.urls, str) else self.urls)]
        if not endpoints or len(set(endpoints)) < len(endpoints):
            raise ValueError("base_url: give at least one address, and none twice")
        if self.balance not in (ROUND_ROBIN, LEAST_PENDING):
            raise ValueError(f"balance must be {ROUND_ROBIN} or {LEAST_PENDING}")
        for endpoint in endpoints:
            if endpoint.is_literal and not may_connect(endpoint.host, private=self.private):
                raise ValueError(f"base_url: {endpoint.host} is no address of {'a private' if self.private else 'the public'} network")
        check_headers(self.headers)
        self._health_request = ServiceRequest.of("GET", self.health_path)
        self._changes = self.probe or not all(endpoint.is_literal for endpoint in endpoints)
        self._addresses = Addresses(endpoints, self._address, self.resolve, balance=self.balance, private=self.private)
        self._upkeep = self._ticker()

    # Start and stop

    def initialize(self) -> None:
        """Begin to resolve names, and to probe where that is wanted."""
        # Series that are there before the first call.
        metrics.SERVICE_BREAKER_OPEN.labels(self.name).set(0)
        metrics.SERVICE_SECONDS.labels(self.name)
        if self._changes:
            self._upkeep.start()
        else:
            self._addresses.refresh()

    def dispose(self) -> None:
        """Stop, and close all connections. It may be started again."""
        self._upkeep.stop()
        self._addresses.close()
        self._upkeep = self._ticker()

    def _ticker(self) -> Ticker:
        return Ticker("service upkeep", self.upkeep_seconds, self.upkeep, self._upkeep_failed, first=0)

    def upkeep(self) -> None:
        """Resolve the names anew, and probe every address where that is wanted."""
        unresolved, refused = self._addresses.refresh()
        if unresolved:
            custom_log("a service's name cannot be resolved", level="WARNING", service=self.name, hosts=unresolved)
        if refused:
            custom_log("a service's name resolves to addresses that it may not have", level="ERROR", service=self.name, refused=refused)
        if self.probe:
            self._ask_all()

    def _upkeep_failed(self, error: Exception) -> None:
        custom_log("upkeep of a service failed", level="ERROR", service=self.name, error=type(error).__name__)

    def _address(self, endpoint: Endpoint, ip: str) -> Address:
        return Address(endpoint, ip, self.connections, self.eject_seconds, lambda: self._tls)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file or certifi.where())

    # Calls

    def send(self, request: ServiceRequest) -> Reply:
        """The service's answer, below 500. Raises Unavailable when it fails, is cut off, or its breaker is open."""
        if not self.breaker.allows():
            raise Unavailable(f"The service {self.name} is away.", retry_after=int(_BREAKER_SECONDS))
        try:
            reply = self._try(request, time.monotonic() + deadline.remaining(self.timeout * self.attempts))
            self.breaker.succeeded()
            return reply
        except (HTTPError, InvalidHeader, TimeLimitReached, BadAnswer, NoAddress) as error:
            self.breaker.failed()
            raise Unavailable(f"The service {self.name} does not answer.") from error
        finally:
            metrics.SERVICE_BREAKER_OPEN.labels(self.name).set(self.breaker.is_open)

    def _try(self, request: ServiceRequest, ends_at: float) -> Reply:
        """Attempts until one is answered, as long as another may be made; then what came of the last one."""
        self.budget.called()
        tried: list[Address] = []
        while True:
            address = self._addresses.pick(tried, ends_at - time.monotonic())
            tried.append(address)
            seconds = max(0.05, min(self.timeout, ends_at - time.monotonic()))
            try:
                reply = self._attempt(address, request, seconds)
            except (HTTPError, TimeLimitReached, BadAnswer):
                if not self._again(len(tried), request, None, ends_at):
                    raise
                continue
            if not reply.may_pass or not self._again(len(tried), request, reply.retry_after, ends_at):
                return _accepted(reply)

    def _again(self, made: int, request: ServiceRequest, wait: float | None, ends_at: float) -> bool:
        """Whether one more attempt is made; waits before it: as long as the service said, or with full jitter."""
        if made >= self.attempts or not request.repeatable:
            return False
        pause = wait if wait is not None else random.uniform(0, min(_PAUSE_MAX_SECONDS, _PAUSE_SECONDS * 2**made))  # noqa: S311
        if time.monotonic() + pause >= ends_at or not self.budget.take():
            return False
        metrics.SERVICE_RETRIES.labels(self.name).inc()
        time.sleep(pause)
        return True

    def _attempt(self, address: Address, request: ServiceRequest, seconds: float) -> Reply:
        """Ask one address, and remember how it did."""
        try:
            with address.busy(), time_limit(seconds):
                reply = self._exchange(address, request, seconds)
            if request is not self._health_request:
                # Read now: what is no JSON is a failure of this address.
                _ = reply.answer
        except EmptyPoolError:
            raise  # it is we who have too much to ask
        except (HTTPError, TimeLimitReached, BadAnswer):
            self._failed(address)
            raise
        if reply.is_failure:
            self._failed(address)
        else:
            address.succeeded()
        return reply

    def _failed(self, address: Address) -> None:
        if address.failed():
            metrics.SERVICE_EJECTIONS.labels(self.name).inc()
            custom_log("an address of a service is out of use", level="WARNING", service=self.name, address=address.name)

    def _exchange(self, address: Address, request: ServiceRequest, seconds: float) -> Reply:
        response = address.pool.urlopen(
            request.method,
            address.endpoint.base_path + request.target,
            body=request.body,
            headers={**self.headers, **request.headers, "Host": address.endpoint.netloc},
            retries=False,
            redirect=False,
            timeout=Timeout(connect=seconds, read=seconds),
            pool_timeout=seconds,  # type: ignore[arg-type]
            preload_content=False,
            decode_content=False,
        )
        whole = False
        try:
            reply = Reply(response.status, self._read(response, time.monotonic() + seconds), _retry_after(response))
            whole = True
            return reply
        finally:
            # A connection with half an answer in it serves nobody any more.
            if whole:
                response.release_conn()
            else:
                response.close()

    def _read(self, response: BaseHTTPResponse, ends_at: float) -> bytes:
        """The whole body, if it is as short and as quick as it has to be."""
        body = bytearray()
        while chunk := response.read1(_CHUNK):
            body += chunk
            if len(body) > self.max_answer_bytes:
                raise BadAnswer("too large")
            if time.monotonic() > ends_at:
                raise BadAnswer("too slow")
        return bytes(body)

    # Health

    @property
    def is_away(self) -> bool:
        """Whether calls to it fail at once."""
        return self.breaker.is_open

    @property
    def ejected(self) -> list[str]:
        """The addresses that are out of use."""
        return [address.name for address in self._addresses.all if address.is_ejected]

    def health_check(self) -> dict[str, Any]:
        """`{status, breaker, addresses: [{address, status, pending}]}`: every address is asked for its health path."""
        answers = self._ask_all()
        if all(answers.values()) and answers:
            status = "healthy"
        else:
            status = "degraded" if any(answers.values()) else "unhealthy"
        addresses = [
            {"address": address.name, "status": _standing(address, answered), "pending": address.pending}
            for address, answered in answers.items()
        ]
        return {"status": status, "breaker": "open" if self.breaker.is_open else "closed", "addresses": addresses}

    def _ask_all(self) -> dict[Address, bool]:
        """Whether each address answers its health path; all are asked at once."""
        addresses = self._addresses.all
        with ThreadPoolExecutor(max_workers=len(addresses) or 1) as pool:
            return dict(zip(addresses, pool.map(self._is_well, addresses), strict=True))

    def _is_well(self, address: Address) -> bool:
        try:
            reply = self._attempt(address, self._health_request, self.timeout)
        except (HTTPError, TimeLimitReached, BadAnswer):
            return False
        return not (reply.is_failure or reply.is_refusal)


def _accepted(reply: Reply) -> Reply:
    if reply.is_failure:
        raise BadAnswer(f"status {reply.status}")
    return reply


def _retry_after(response: BaseHTTPResponse) -> float | None:
    try:
        return Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _standing(address: Address, answered: bool) -> str:
    if not answered:
        return "unhealthy"
    return "ejected" if address.is_ejected else "healthy"
