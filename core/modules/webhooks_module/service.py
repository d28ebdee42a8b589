"""Webhooks: who may have, see and change them, and what was delivered to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from core.modules.webhooks_module import errors
from core.modules.webhooks_module.delivery_repository import DeliveryRepository, new_delivery
from core.modules.webhooks_module.events import EVENT_TYPES, Event, is_known
from core.modules.webhooks_module.outcomes import OWNER_GONE
from core.modules.webhooks_module.repository import ACTIVE, DISABLED, WebhookRepository
from core.modules.webhooks_module.schemas import DeliveriesQuery, WebhookBody, WebhookPatch, delivery_view, webhook_view
from core.modules.webhooks_module.signing import make_secret
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import Principal
from utils.clock import utc_now
from utils.ids import new_id

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

WEBHOOKS_PER_OWNER = 20
_BY_HAND = "by-hand"


class WebhookService:
    """A service sees and manages its own webhooks, an admin all."""

    def __init__(
        self,
        webhooks: WebhookRepository,
        deliveries: DeliveryRepository,
        pager: Pager,
        *,
        check_url: Callable[[str], None],
        queued: Callable[[], None],
    ) -> None:
        """`check_url` raises ValueError for one that may not be used; `queued` is called when something is to be delivered."""
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._pager = pager
        self._check_url = check_url
        self._queued = queued

    def create(self, principal: Principal, body: WebhookBody) -> dict[str, Any]:
        """A new webhook; the answer is the only place where its secret is ever seen."""
        self._refuse_unusable(body.url, body.events)
        webhook = {
            "_id": new_id("wh"),
            "owner_id": principal.user_id,
            "url": body.url,
            "events": body.events,
            "description": body.description,
            "secret": make_secret(),
            "status": ACTIVE,
            "disabled_reason": None,
            "failing_since": None,
            "given_up": 0,
            "created_at": utc_now(),
        }

        def work(session: ClientSession) -> None:
            if self._webhooks.count_of(principal.user_id, session) >= WEBHOOKS_PER_OWNER:
                raise errors.too_many_webhooks(WEBHOOKS_PER_OWNER)
            self._webhooks.insert(webhook, session)

        self._webhooks.transaction(work)
        return {**webhook_view(webhook), "secret": webhook["secret"]}

    def get(self, principal: Principal, webhook_id: str) -> dict[str, Any]:
        return webhook_view(self._find(principal, webhook_id))

    def page(self, principal: Principal, query: PageQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: the webhooks that the caller may see, newest first."""
        binding = f"webhooks:{principal.user_id}:{principal.role}"
        before = self._pager.position(query.cursor, binding)
        filters = {} if principal.is_admin else {"owner_id": principal.user_id}
        found = self._webhooks.find_page(filters, before, query.limit + 1)
        return self._pager.page([webhook_view(webhook) for webhook in found], query.limit, binding)

    def change(self, principal: Principal, webhook_id: str, patch: WebhookPatch) -> dict[str, Any]:
        """Change what `patch` names. One that is made active again starts with a clean slate."""
        self._refuse_unusable(patch.url, patch.events)
        self._find(principal, webhook_id)
        fields = patch.model_dump(exclude_none=True)
        if patch.status == ACTIVE:
            fields.update(disabled_reason=None, failing_since=None, given_up=0)
        elif patch.status == DISABLED:
            fields["disabled_reason"] = _BY_HAND
        if not self._webhooks.change(webhook_id, fields):
            raise errors.webhook_not_found()
        return self.get(principal, webhook_id)

    def remove(self, principal: Principal, webhook_id: str) -> None:
        """Delete a webhook; what was not delivered yet never will be."""
        self._find(principal, webhook_id)
        if not self._webhooks.remove(webhook_id):
            raise errors.webhook_not_found()

    def forget_owner(self, owner_id: str, session: Any) -> None:
        """Disable the webhooks of a user who is leaving, and remove what was theirs, in the transaction of `session`."""
        self._webhooks.erase_of(owner_id, OWNER_GONE, session)

    # Deliveries

    def deliveries(self, principal: Principal, webhook_id: str, query: DeliveriesQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: what was and will be delivered to a webhook, newest first, for 30 days."""
        self._find(principal, webhook_id)
        binding = f"deliveries:{principal.user_id}:{webhook_id}:{query.status}"
        before = self._pager.position(query.cursor, binding)
        found = self._deliveries.find_page(webhook_id, query.status, before, query.limit + 1)
        return self._pager.page([delivery_view(delivery) for delivery in found], query.limit, binding)

    def replay(self, principal: Principal, webhook_id: str, delivery_id: str) -> dict[str, Any]:
        """Deliver the same event, body and id, once more: as a delivery of its own, with a signature of then."""
        webhook = self._find(principal, webhook_id)
        earlier = self._deliveries.find(webhook_id, delivery_id)
        if earlier is None:
            raise errors.delivery_not_found()
        if webhook["status"] != ACTIVE:
            raise errors.webhook_disabled()
        event = Event(earlier["event_id"], earlier["event_type"], earlier["body"])
        delivery = new_delivery(webhook_id, event, utc_now(), replay_of=delivery_id)
        self._deliveries.insert(delivery)
        self._queued()
        return delivery_view(delivery)

    def _find(self, principal: Principal, webhook_id: str) -> dict[str, Any]:
        webhook = self._webhooks.find(webhook_id)
        if webhook is None or (webhook["owner_id"] != principal.user_id and not principal.is_admin):
            raise errors.webhook_not_found()
        return webhook

    def _refuse_unusable(self, url: str | None, events: list[str] | None) -> None:
        if events is not None and not all(map(is_known, events)):
            raise errors.unknown_events(EVENT_TYPES)
        if url is not None:
            try:
                self._check_url(url)
            except ValueError as error:
                raise errors.url_refused(str(error)) from None
