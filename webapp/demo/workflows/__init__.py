"""The workflows of the demo, one file each."""

from __future__ import annotations

from webapp.demo.workflows.billing import BILLING
from webapp.demo.workflows.claims import CLAIMS
from webapp.demo.workflows.content import CONTENT
from webapp.demo.workflows.crm import CRM
from webapp.demo.workflows.definition import DemoWorkflow
from webapp.demo.workflows.documents import DOCUMENTS
from webapp.demo.workflows.month_end import MONTH_END
from webapp.demo.workflows.onboarding import ONBOARDING
from webapp.demo.workflows.support import SUPPORT
from webapp.demo.workflows.warehouse import WAREHOUSE

__all__ = [
    "ALL",
    "BILLING",
    "CLAIMS",
    "CONTENT",
    "CRM",
    "DOCUMENTS",
    "MONTH_END",
    "ONBOARDING",
    "PLAYED_LIVE",
    "SUPPORT",
    "WAREHOUSE",
    "DemoWorkflow",
]

PLAYED_LIVE: tuple[DemoWorkflow, ...] = (
    CLAIMS,
    CONTENT,
    BILLING,
    CRM,
    DOCUMENTS,
    ONBOARDING,
    WAREHOUSE,
    SUPPORT,
)
"""Workflows that the live runner of the demo knows."""

ALL: tuple[DemoWorkflow, ...] = (*PLAYED_LIVE, MONTH_END)
