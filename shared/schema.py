"""The enums that Python code imports, and the jobs. Generated from the database by `make schema`.

An enum appears here once a module imports it. Members equal their text, which is what a row holds.
"""

from enum import StrEnum


class ActionType(StrEnum):
    """What a quick action does when it is run."""

    NAVIGATION = "NAVIGATION"
    API_CALL = "API_CALL"
    MODAL_FORM = "MODAL_FORM"
    EXTERNAL_LINK = "EXTERNAL_LINK"
    WORKFLOW_TRIGGER = "WORKFLOW_TRIGGER"


class ActivitySeverity(StrEnum):
    """Severity of a feed entry."""

    INFO = "INFO"
    SUCCESS = "SUCCESS"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class ActivityType(StrEnum):
    """What was done; CALL, EMAIL, MEETING, SHOWING and FOLLOW_UP are contact with somebody."""

    CALL = "CALL"
    EMAIL = "EMAIL"
    MEETING = "MEETING"
    TASK = "TASK"
    NOTE = "NOTE"
    SHOWING = "SHOWING"
    OPEN_HOUSE = "OPEN_HOUSE"
    FOLLOW_UP = "FOLLOW_UP"


class AlertCategory(StrEnum):
    """What a system alert is about."""

    SYSTEM = "SYSTEM"
    MAINTENANCE = "MAINTENANCE"
    FEATURE = "FEATURE"
    SECURITY = "SECURITY"
    BILLING = "BILLING"
    MARKETING = "MARKETING"


class AlertLevel(StrEnum):
    """How a system alert is shown."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    SUCCESS = "SUCCESS"


class ApiKeyScope(StrEnum):
    """What an API key may do: read or write the tables and functions of one domain."""

    CRM_READ = "CRM_READ"
    CRM_WRITE = "CRM_WRITE"
    TASKS_READ = "TASKS_READ"
    TASKS_WRITE = "TASKS_WRITE"
    ORDERS_READ = "ORDERS_READ"
    ORDERS_WRITE = "ORDERS_WRITE"
    DASHBOARD_READ = "DASHBOARD_READ"
    BILLING_READ = "BILLING_READ"
    ORGANIZATION_READ = "ORGANIZATION_READ"


class BillingCycle(StrEnum):
    """How often a subscription is paid."""

    MONTHLY = "MONTHLY"
    YEARLY = "YEARLY"


class ComplexityLevel(StrEnum):
    """Size of a build: up to 8, 24, 72 hours, or more."""

    SIMPLE = "SIMPLE"
    MODERATE = "MODERATE"
    COMPLEX = "COMPLEX"
    ENTERPRISE = "ENTERPRISE"


class DashboardActivityType(StrEnum):
    """Kind of a feed entry; what was done with a customer is an "ActivityType"."""

    USER_ACTION = "USER_ACTION"
    SYSTEM_EVENT = "SYSTEM_EVENT"
    WORKFLOW_UPDATE = "WORKFLOW_UPDATE"
    DATA_CHANGE = "DATA_CHANGE"
    SECURITY_EVENT = "SECURITY_EVENT"
    INTEGRATION_EVENT = "INTEGRATION_EVENT"


class DashboardTheme(StrEnum):
    """Colors of a person's dashboard."""

    LIGHT = "LIGHT"
    DARK = "DARK"
    AUTO = "AUTO"


class Environment(StrEnum):
    """The deployment in which a feature flag applies."""

    DEVELOPMENT = "DEVELOPMENT"
    STAGING = "STAGING"
    PRODUCTION = "PRODUCTION"


class LayoutDensity(StrEnum):
    """Spacing of a person's dashboard."""

    COMPACT = "COMPACT"
    NORMAL = "NORMAL"
    SPACIOUS = "SPACIOUS"


class MetricCategory(StrEnum):
    """Where a metric is filed."""

    FINANCIAL = "FINANCIAL"
    OPERATIONAL = "OPERATIONAL"
    MARKETING = "MARKETING"
    SALES = "SALES"
    PRODUCTIVITY = "PRODUCTIVITY"
    SYSTEM = "SYSTEM"
    CUSTOM = "CUSTOM"


class OrderStatus(StrEnum):
    """State of an order; private.order_moves says what may follow what."""

    DRAFT = "DRAFT"
    SUBMITTED = "SUBMITTED"
    IN_REVIEW = "IN_REVIEW"
    APPROVED = "APPROVED"
    IN_PROGRESS = "IN_PROGRESS"
    TESTING = "TESTING"
    COMPLETED = "COMPLETED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"


class OrgRole(StrEnum):
    """Role in one organization, strongest first."""

    OWNER = "OWNER"
    ADMIN = "ADMIN"
    MEMBER = "MEMBER"
    VIEWER = "VIEWER"


class PaymentStatus(StrEnum):
    """State of the payment of an onboarding session, as Stripe reports it."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REQUIRES_ACTION = "REQUIRES_ACTION"


class PropertyType(StrEnum):
    """Kind of property."""

    RESIDENTIAL = "RESIDENTIAL"
    COMMERCIAL = "COMMERCIAL"
    LAND = "LAND"
    MULTI_FAMILY = "MULTI_FAMILY"
    CONDO = "CONDO"
    TOWNHOUSE = "TOWNHOUSE"
    LUXURY = "LUXURY"


class RefundStatus(StrEnum):
    """TO_DECIDE: waits for a person. DUE: issued by the job after refund_after. ISSUING: the job is calling Stripe.
    FAILED: Stripe refused; see error. WITHDRAWN: not refunded, because the customer got what they paid for.
    """

    TO_DECIDE = "TO_DECIDE"
    DUE = "DUE"
    ISSUING = "ISSUING"
    REFUNDED = "REFUNDED"
    FAILED = "FAILED"
    WITHDRAWN = "WITHDRAWN"


class StripeEventStatus(StrEnum):
    """RECEIVED: to be applied. IGNORED: nothing to do. PARKED: waits for a customer or price we do not know yet.
    QUARANTINED: must not be applied (test event in live mode or the reverse).
    """

    RECEIVED = "RECEIVED"
    APPLIED = "APPLIED"
    IGNORED = "IGNORED"
    PARKED = "PARKED"
    QUARANTINED = "QUARANTINED"


class SubscriptionStatus(StrEnum):
    """State of what an organization has bought."""

    TRIAL = "TRIAL"
    ACTIVE = "ACTIVE"
    PAST_DUE = "PAST_DUE"
    INACTIVE = "INACTIVE"
    CANCELLED = "CANCELLED"


class SubscriptionTier(StrEnum):
    """What an organization has bought; plans has the limits of each tier."""

    FREE = "FREE"
    STARTER = "STARTER"
    GROWTH = "GROWTH"
    ELITE = "ELITE"
    ENTERPRISE = "ENTERPRISE"


class UserRole(StrEnum):
    """Role on the whole platform; ADMIN and SUPER_ADMIN administer it."""

    SUPER_ADMIN = "SUPER_ADMIN"
    ADMIN = "ADMIN"
    MODERATOR = "MODERATOR"
    USER = "USER"


class WidgetType(StrEnum):
    """What a widget shows."""

    KPI_CARD = "KPI_CARD"
    CHART = "CHART"
    TABLE = "TABLE"
    ACTIVITY_FEED = "ACTIVITY_FEED"
    QUICK_ACTIONS = "QUICK_ACTIONS"
    MODULE_SHORTCUTS = "MODULE_SHORTCUTS"
    PROGRESS_TRACKER = "PROGRESS_TRACKER"
    NOTIFICATION_PANEL = "NOTIFICATION_PANEL"
    CALENDAR = "CALENDAR"
    WEATHER = "WEATHER"


JOBS = {
    "deliver_webhooks": "Send events to the webhooks of organizations.",
    "end_suspensions": "End suspensions whose time has passed.",
    "erase_closed_organizations": "Erase organizations that were closed 30 days ago.",
    "expire_onboarding_sessions": "Delete abandoned onboarding sessions.",
    "forget_emails": "Delete old e-mails from the outbox.",
    "forget_expired_keys": "Delete expired idempotency keys.",
    "forget_job_runs": "Delete runs of jobs older than 30 days.",
    "forget_webhook_deliveries": "Delete webhook deliveries older than 30 days.",
    "keep_months": "Add the next months of the activity log and archive old ones.",
    "purge_trash": "Delete what has been in the trash for 30 days.",
    "reconcile_stripe": "Apply events that were never delivered, and fetch what is in doubt.",
    "redact_stripe_events": "Delete the payload of old events of Stripe.",
    "refresh_dashboard_metrics": "Count stale metrics again.",
    "refresh_platform_metrics": "Count the platform metrics of today.",
    "remind_invited": "Remind people of invitations that expire within a day.",
    "report_due_tasks": "Notify people of tasks that are due or overdue.",
    "report_matches": "Report listings and buyers that suit each other to their members.",
    "roll_up_alert_counts": "Add views and dismissals to their alerts.",
    "roll_up_tallies": "Add uses, views and likes that were left behind.",
    "roll_up_usage": "Add what requests used to the usage of their day.",
    "send_appointment_reminders": "Remind people of their appointments.",
    "send_digests": "Collect the events of a day into one e-mail for each person.",
    "send_emails": "Send due e-mails.",
    "send_weekly_summaries": "Send owners the week of their organization.",
    "settle_onboarding_payments": "Cancel unfinished payments, fetch long ones, issue refunds, and make the changes due at Stripe.",
    "sync_attachments": "Sync files and their rows.",
    "sync_auth": "Sync suspensions and deletions of users with Supabase Auth.",
    "update_billing": "End granted plans, and notify owners of trials, renewals and cards that end.",
}
