"""The one list of migrations, in their order."""

from __future__ import annotations

from core.migrations import m0001_stamp_audit_rows, m0002_stamp_transactions
from core.migrations.migration import Migration

MIGRATIONS: tuple[Migration, ...] = (m0001_stamp_audit_rows.MIGRATION, m0002_stamp_transactions.MIGRATION)
