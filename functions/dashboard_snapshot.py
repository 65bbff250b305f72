from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, Field, JsonValue

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import (
    ActionType,
    ActivitySeverity,
    AlertCategory,
    AlertLevel,
    DashboardActivityType,
    DashboardTheme,
    LayoutDensity,
    MetricCategory,
    OrgRole,
    SubscriptionTier,
    WidgetType,
)


class SnapshotRequest(RequestModel):
    feed_size: Annotated[int, Field(ge=1, le=50)] = 20


class PartError(ResponseModel):
    """Why this part is missing; the other parts are valid."""

    code: str
    message: str
    details: str | None
    hint: str | None


class Organization(ResponseModel):
    """`role` is null for a platform admin who is not a member."""

    id: UUID
    name: str
    slug: str
    tier: SubscriptionTier
    role: OrgRole | None


class DashboardSettings(ResponseModel):
    layout: dict[str, Any] | list[Any]
    theme: DashboardTheme
    density: LayoutDensity
    auto_refresh: bool
    pinned_modules: list[str]


class WidgetPosition(ResponseModel):
    x: int
    y: int
    w: int
    h: int


class Widget(ResponseModel):
    """`data` depends on the type; it is null if `error` is set."""

    id: UUID
    name: str
    title: str
    type: WidgetType
    chart_type: str | None
    config: dict[str, Any]
    refresh_rate: int
    position: WidgetPosition
    data: JsonValue
    error: PartError | None


class MetricPoint(ResponseModel):
    """`group` is a day, the first day of a week or month, or the value of a column."""

    group: str | bool | None
    value: float | None


class Metric(ResponseModel):
    """One that failed has only `id`, `name` and `error`.

    `previous` and `change` are set with a period, `series` and `more` with group_by.
    """

    id: UUID
    name: str
    error: PartError | None
    category: MetricCategory | None = None
    unit: str | None = None
    format: str | None = None
    target_value: float | None = None
    chart_type: str | None = None
    color: str | None = None
    icon: str | None = None
    status: str | None = None
    calculated_at: AwareDatetime | None = None
    value: float | None = None
    previous: float | None = None
    change: float | None = None
    series: list[MetricPoint] | None = None
    more: bool | None = None


class FeedItem(ResponseModel):
    id: UUID
    user_id: UUID | None
    title: str
    description: str | None
    type: DashboardActivityType
    entity_type: str
    entity_id: str
    action: str
    metadata: JsonValue
    severity: ActivitySeverity
    is_read: bool
    is_pinned: bool
    is_archived: bool
    created_at: AwareDatetime


class QuickAction(ResponseModel):
    id: UUID
    name: str
    description: str | None
    icon: str
    color: str
    action_type: ActionType


class Alert(ResponseModel):
    id: UUID
    title: str
    message: str
    level: AlertLevel
    category: AlertCategory
    is_dismissible: bool
    auto_hide_after: int | None
    starts_at: AwareDatetime
    ends_at: AwareDatetime | None
    created_at: AwareDatetime
    is_viewed: bool


class DashboardSnapshot(ResponseModel):
    at: AwareDatetime
    organization: Organization
    dashboard: DashboardSettings
    widgets: list[Widget]
    metrics: list[Metric]
    feed: list[FeedItem]
    quick_actions: list[QuickAction]
    alerts: list[Alert]
    unread: int


@function("user")
async def dashboard_snapshot(call: Call[SnapshotRequest]) -> Result[DashboardSnapshot]:
    """Get everything on the first screen.

    One response has the layout, the widgets with their data, metrics, the first page of the feed, quick actions, alerts
    and the number of unread notifications, as far as the caller may see them in their organization. A widget or metric
    that fails has an `error` instead of data.
    """
    return await call.run("public.dashboard_snapshot", call.body)
