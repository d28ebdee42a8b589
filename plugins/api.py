"""Everything that a plugin may import from us: what stands here keeps its name and meaning, and nothing else promises that."""

from core.cli.booted import booted
from core.contracts import FieldRules, Kind
from core.modules.base_module import BaseModule
from core.plugin_scope import PluginScope
from core.web.answers import NOTHING, SOMETIMES, Page, Time, View
from core.web.assets import Assets
from core.web.models import Body, PageQuery, Query, Text
from core.web.paging import Pager
from core.web.routing import ADMINS, EVERYONE, ISSUERS, PUBLIC, WRITERS, Answer, Call, Principal, Route
from core.web.socket_events import Connection, Event
from plugins.base_plugin import BasePlugin
from tools.error_handling.errors import AppError, Conflict, Forbidden, MalformedRequest, NotFound, RateLimited, Unavailable, Unprocessable
from tools.logger.custom_logger import custom_log, log_exception
from utils.background import Ticker
from utils.clock import rfc3339, utc_now
from utils.config.config import Setting
from utils.ids import new_id

__all__ = [
    "ADMINS",
    "EVERYONE",
    "ISSUERS",
    "NOTHING",
    "PUBLIC",
    "SOMETIMES",
    "WRITERS",
    "Answer",
    "AppError",
    "Assets",
    "BaseModule",
    "BasePlugin",
    "Body",
    "Call",
    "Conflict",
    "Connection",
    "Event",
    "FieldRules",
    "Forbidden",
    "Kind",
    "MalformedRequest",
    "NotFound",
    "Page",
    "PageQuery",
    "Pager",
    "PluginScope",
    "Principal",
    "Query",
    "RateLimited",
    "Route",
    "Setting",
    "Text",
    "Ticker",
    "Time",
    "Unavailable",
    "Unprocessable",
    "View",
    "booted",
    "custom_log",
    "log_exception",
    "new_id",
    "rfc3339",
    "utc_now",
]
