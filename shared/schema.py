"""The schema of the database in Python. Generated from its catalog by `make schema`; changed only there.

A row is what psycopg returns for `select *`. Members of an enum equal their text, which is what a row holds.
Rows exist for the type checker alone: import them under TYPE_CHECKING.
"""

from enum import StrEnum
from typing import TYPE_CHECKING


class ActionType(StrEnum):
    """What a quick action does when it is run."""

    NAVIGATION = "NAVIGATION"
    API_CALL = "API_CALL"
    MODAL_FORM = "MODAL_FORM"
    EXTERNAL_LINK = "EXTERNAL_LINK"
    WORKFLOW_TRIGGER = "WORKFLOW_TRIGGER"


class ActivitySeverity(StrEnum):
    """How much attention a feed entry wants."""

    INFO = "INFO"
    SUCCESS = "SUCCESS"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class ActivityType(StrEnum):
    """What was done; all but TASK and NOTE is contact with somebody."""

    CALL = "CALL"
    EMAIL = "EMAIL"
    MEETING = "MEETING"
    TASK = "TASK"
    NOTE = "NOTE"
    SHOWING = "SHOWING"
    OPEN_HOUSE = "OPEN_HOUSE"
    FOLLOW_UP = "FOLLOW_UP"


class AdminAction(StrEnum):
    """What a platform admin did."""

    USER_CREATE = "USER_CREATE"
    USER_UPDATE = "USER_UPDATE"
    USER_SUSPEND = "USER_SUSPEND"
    USER_DELETE = "USER_DELETE"
    USER_IMPERSONATE = "USER_IMPERSONATE"
    ORG_CREATE = "ORG_CREATE"
    ORG_UPDATE = "ORG_UPDATE"
    ORG_SUSPEND = "ORG_SUSPEND"
    ORG_DELETE = "ORG_DELETE"
    SUBSCRIPTION_CREATE = "SUBSCRIPTION_CREATE"
    SUBSCRIPTION_UPDATE = "SUBSCRIPTION_UPDATE"
    SUBSCRIPTION_CANCEL = "SUBSCRIPTION_CANCEL"
    FEATURE_FLAG_UPDATE = "FEATURE_FLAG_UPDATE"
    SYSTEM_CONFIG_UPDATE = "SYSTEM_CONFIG_UPDATE"
    DATA_EXPORT = "DATA_EXPORT"
    BULK_ACTION = "BULK_ACTION"


class AgentCategory(StrEnum):
    """What an agent is for."""

    SALES = "SALES"
    SUPPORT = "SUPPORT"
    ANALYSIS = "ANALYSIS"
    CONTENT = "CONTENT"
    AUTOMATION = "AUTOMATION"
    RESEARCH = "RESEARCH"


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


class AppointmentStatus(StrEnum):
    """State of an appointment."""

    SCHEDULED = "SCHEDULED"
    CONFIRMED = "CONFIRMED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    NO_SHOW = "NO_SHOW"


class AppointmentType(StrEnum):
    """Kind of an appointment."""

    MEETING = "MEETING"
    CALL = "CALL"
    SHOWING = "SHOWING"
    OPEN_HOUSE = "OPEN_HOUSE"
    FOLLOW_UP = "FOLLOW_UP"
    OTHER = "OTHER"


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


class ContactStatus(StrEnum):
    """Whether a contact may be approached."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    DO_NOT_CONTACT = "DO_NOT_CONTACT"


class ContactType(StrEnum):
    """What a contact is to the organisation."""

    PROSPECT = "PROSPECT"
    CLIENT = "CLIENT"
    PAST_CLIENT = "PAST_CLIENT"
    PARTNER = "PARTNER"
    VENDOR = "VENDOR"


class ContentStatus(StrEnum):
    """PUBLISHED content is readable by anyone."""

    DRAFT = "DRAFT"
    PUBLISHED = "PUBLISHED"
    ARCHIVED = "ARCHIVED"


class ContentType(StrEnum):
    """Kind of content."""

    PAGE = "PAGE"
    BLOG_POST = "BLOG_POST"
    DOCUMENTATION = "DOCUMENTATION"
    TEMPLATE = "TEMPLATE"


class CustomerSource(StrEnum):
    """Where a customer came from."""

    WEBSITE = "WEBSITE"
    REFERRAL = "REFERRAL"
    SOCIAL = "SOCIAL"
    EMAIL = "EMAIL"
    OTHER = "OTHER"


class CustomerStatus(StrEnum):
    """How far somebody is a customer."""

    LEAD = "LEAD"
    PROSPECT = "PROSPECT"
    ACTIVE = "ACTIVE"
    CHURNED = "CHURNED"


class DashboardActivityType(StrEnum):
    """Kind of a feed entry; what was done with a customer is an "ActivityType"."""

    USER_ACTION = "USER_ACTION"
    SYSTEM_EVENT = "SYSTEM_EVENT"
    WORKFLOW_UPDATE = "WORKFLOW_UPDATE"
    DATA_CHANGE = "DATA_CHANGE"
    SECURITY_EVENT = "SECURITY_EVENT"
    INTEGRATION_EVENT = "INTEGRATION_EVENT"


class DashboardTheme(StrEnum):
    """Colours of a person's dashboard."""

    LIGHT = "LIGHT"
    DARK = "DARK"
    AUTO = "AUTO"


class DealStage(StrEnum):
    """Stage of the pipeline."""

    LEAD = "LEAD"
    QUALIFIED = "QUALIFIED"
    PROPOSAL = "PROPOSAL"
    NEGOTIATION = "NEGOTIATION"
    CLOSING = "CLOSING"
    CLOSED_WON = "CLOSED_WON"
    CLOSED_LOST = "CLOSED_LOST"


class DealStatus(StrEnum):
    """Outcome of a deal; follows its stage."""

    ACTIVE = "ACTIVE"
    WON = "WON"
    LOST = "LOST"
    ABANDONED = "ABANDONED"


class Environment(StrEnum):
    """Where a feature flag holds."""

    DEVELOPMENT = "DEVELOPMENT"
    STAGING = "STAGING"
    PRODUCTION = "PRODUCTION"


class LayoutDensity(StrEnum):
    """Spacing of a person's dashboard."""

    COMPACT = "COMPACT"
    NORMAL = "NORMAL"
    SPACIOUS = "SPACIOUS"


class LeadScore(StrEnum):
    """score_value as a word."""

    HOT = "HOT"
    WARM = "WARM"
    COLD = "COLD"


class LeadSource(StrEnum):
    """Where a lead came from."""

    WEBSITE = "WEBSITE"
    REFERRAL = "REFERRAL"
    GOOGLE_ADS = "GOOGLE_ADS"
    SOCIAL_MEDIA = "SOCIAL_MEDIA"
    COLD_CALL = "COLD_CALL"
    EMAIL_CAMPAIGN = "EMAIL_CAMPAIGN"
    EVENT = "EVENT"
    PARTNER = "PARTNER"
    OTHER = "OTHER"


class LeadStatus(StrEnum):
    """How far a lead has come; CONVERTED is reached by convert_lead() alone."""

    NEW_LEAD = "NEW_LEAD"
    IN_CONTACT = "IN_CONTACT"
    QUALIFIED = "QUALIFIED"
    UNQUALIFIED = "UNQUALIFIED"
    CONVERTED = "CONVERTED"
    LOST = "LOST"


class ListingStatus(StrEnum):
    """Whether a property can be bought."""

    ACTIVE = "ACTIVE"
    PENDING = "PENDING"
    SOLD = "SOLD"
    EXPIRED = "EXPIRED"
    WITHDRAWN = "WITHDRAWN"
    CONTINGENT = "CONTINGENT"


class LogLevel(StrEnum):
    """Weight of a build log entry."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class MetricCategory(StrEnum):
    """Where a metric is filed."""

    FINANCIAL = "FINANCIAL"
    OPERATIONAL = "OPERATIONAL"
    MARKETING = "MARKETING"
    SALES = "SALES"
    PRODUCTIVITY = "PRODUCTIVITY"
    SYSTEM = "SYSTEM"
    CUSTOM = "CUSTOM"


class NotificationType(StrEnum):
    """Colour of a notification."""

    INFO = "INFO"
    SUCCESS = "SUCCESS"
    WARNING = "WARNING"
    ERROR = "ERROR"


class OrderPriority(StrEnum):
    """How soon an order should be built."""

    LOW = "LOW"
    NORMAL = "NORMAL"
    HIGH = "HIGH"
    URGENT = "URGENT"


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
    """Role in one organisation, strongest first."""

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


class Priority(StrEnum):
    """Priority of a project or task."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


class ProjectStatus(StrEnum):
    """State of a project."""

    PLANNING = "PLANNING"
    ACTIVE = "ACTIVE"
    ON_HOLD = "ON_HOLD"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


class PropertyType(StrEnum):
    """Kind of property."""

    RESIDENTIAL = "RESIDENTIAL"
    COMMERCIAL = "COMMERCIAL"
    LAND = "LAND"
    MULTI_FAMILY = "MULTI_FAMILY"
    CONDO = "CONDO"
    TOWNHOUSE = "TOWNHOUSE"
    LUXURY = "LUXURY"


class RefundReason(StrEnum):
    """Why money is owed. REPLACED: another plan had been chosen. ENDED: the subscription was over, or the money
    given back, before it began. UNCLAIMED: paid without signing in, and nobody came back. MISMATCH: not what was
    offered.
    """

    REPLACED = "REPLACED"
    ENDED = "ENDED"
    UNCLAIMED = "UNCLAIMED"
    MISMATCH = "MISMATCH"


class RefundStatus(StrEnum):
    """TO_DECIDE: waits for a person. DUE: issued by the job after refund_after. ISSUING: Stripe is being asked.
    FAILED: Stripe refused, error says why. WITHDRAWN: the money is kept, for what was given after all.
    """

    TO_DECIDE = "TO_DECIDE"
    DUE = "DUE"
    ISSUING = "ISSUING"
    REFUNDED = "REFUNDED"
    FAILED = "FAILED"
    WITHDRAWN = "WITHDRAWN"


class ResourceType(StrEnum):
    """What usage is counted of."""

    AI_TOKENS = "AI_TOKENS"
    API_CALLS = "API_CALLS"
    STORAGE = "STORAGE"
    SEATS = "SEATS"


class ShowcaseCategory(StrEnum):
    """What a showcase shows."""

    AI_AGENT = "AI_AGENT"
    AUTOMATION_TOOL = "AUTOMATION_TOOL"
    INTEGRATION = "INTEGRATION"
    WORKFLOW = "WORKFLOW"
    CUSTOM_SOLUTION = "CUSTOM_SOLUTION"


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
    """State of what an organisation has bought."""

    TRIAL = "TRIAL"
    ACTIVE = "ACTIVE"
    PAST_DUE = "PAST_DUE"
    INACTIVE = "INACTIVE"
    CANCELLED = "CANCELLED"


class SubscriptionTier(StrEnum):
    """What an organisation has bought; limits stand in plans."""

    FREE = "FREE"
    STARTER = "STARTER"
    GROWTH = "GROWTH"
    ELITE = "ELITE"
    ENTERPRISE = "ENTERPRISE"


class TaskStatus(StrEnum):
    """State of a task."""

    TODO = "TODO"
    IN_PROGRESS = "IN_PROGRESS"
    REVIEW = "REVIEW"
    DONE = "DONE"
    CANCELLED = "CANCELLED"


class ToolCategory(StrEnum):
    """What a tool is for."""

    AUTOMATION = "AUTOMATION"
    ANALYTICS = "ANALYTICS"
    INTEGRATION = "INTEGRATION"
    UI = "UI"
    API = "API"
    WORKFLOW = "WORKFLOW"


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


if TYPE_CHECKING:
    from datetime import date, datetime
    from decimal import Decimal
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any, TypeAlias, TypedDict
    from uuid import UUID

    Json: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None

    class OrganizationInvitationsRow(TypedDict):
        """organization_invitations: Open and accepted invitations by e-mail address."""

        id: UUID
        organization_id: UUID
        email: str
        role: OrgRole
        token_hash: str
        invited_by: UUID
        expires_at: datetime
        accepted_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class OrganizationMembersRow(TypedDict):
        """organization_members: Who belongs to which organisation, as what."""

        user_id: UUID
        organization_id: UUID
        role: OrgRole
        permissions: list[str]
        joined_at: datetime
        blocked_until: datetime | None

    class OrganizationsRow(TypedDict):
        """organizations: A tenant. Everything a customer owns hangs on one."""

        id: UUID
        name: str
        slug: str
        website: str | None
        description: str | None
        settings: Json
        subscription_tier: SubscriptionTier
        subscription_status: SubscriptionStatus
        billing_email: str | None
        stripe_customer_id: str | None
        created_at: datetime
        updated_at: datetime

    class UsersRow(TypedDict):
        """users: Everyone who can sign in; kept in step with auth.users."""

        id: UUID
        email: str
        name: str | None
        avatar_url: str | None
        global_role: UserRole
        is_active: bool
        last_login_at: datetime | None
        suspended_at: datetime | None
        suspended_until: datetime | None
        suspended_reason: str | None
        deleted_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class AdminActionLogsRow(TypedDict):
        """admin_action_logs: Every administrative action, successful or not. Append-only for all."""

        id: UUID
        action: AdminAction
        description: str
        target_type: str
        target_id: str
        metadata: Json | None
        ip_address: str | None
        user_agent: str | None
        success: bool
        error: str | None
        created_at: datetime
        admin_id: UUID
        acting_as_id: UUID | None

    class ActivityLogsRow(TypedDict):
        """activity_logs: Who changed what in an organisation. Append-only for everyone."""

        id: UUID
        organization_id: UUID
        user_id: UUID | None
        impersonated_by: UUID | None
        api_key_id: UUID | None
        action: str
        resource_type: str
        resource_id: UUID | None
        old_data: Json | None
        new_data: Json | None
        ip_address: str | None
        user_agent: str | None
        created_at: datetime

    class SystemAlertDismissalsRow(TypedDict):
        """system_alert_dismissals: Who dismissed which alert."""

        alert_id: UUID
        user_id: UUID
        created_at: datetime

    class SystemAlertViewsRow(TypedDict):
        """system_alert_views: Who saw which alert."""

        alert_id: UUID
        user_id: UUID
        created_at: datetime

    class SystemAlertsRow(TypedDict):
        """system_alerts: What the platform tells its users, or some of them. Admins' own; everybody else reads
        active_alerts().
        """

        id: UUID
        title: str
        message: str
        level: AlertLevel
        category: AlertCategory
        is_global: bool
        target_roles: list[UserRole]
        target_tiers: list[SubscriptionTier]
        target_orgs: list[UUID]
        target_users: list[UUID]
        is_dismissible: bool
        auto_hide_after: int | None
        starts_at: datetime
        ends_at: datetime | None
        view_count: int
        dismiss_count: int
        is_active: bool
        is_archived: bool
        created_at: datetime
        updated_at: datetime
        created_by: UUID | None

    class TrashRow(TypedDict):
        """trash: Deleted records, for 30 days. restore_from_trash() brings them back; to delete an entry purges its
        record at once (ADMIN).
        """

        id: UUID
        organization_id: UUID
        kind: str
        record_id: UUID
        title: str
        record: Json
        links: Json
        children: Json
        deleted_with: UUID | None
        deleted_by: UUID | None
        deleted_at: datetime
        purge_at: datetime

    class OnboardingSessionsRow(TypedDict):
        """onboarding_sessions: A new customer on the way from a name to a paid organisation. Reached by its token, or
        by the user it belongs to.
        """

        id: UUID
        token_hash: str
        current_step: int
        total_steps: int
        org_name: str | None
        org_website: str | None
        org_description: str | None
        selected_tier: SubscriptionTier | None
        billing_cycle: BillingCycle | None
        stripe_customer_id: str | None
        stripe_subscription_id: str | None
        stripe_payment_intent_id: str | None
        payment_attempt: int
        payment_status: PaymentStatus
        is_completed: bool
        completed_at: datetime | None
        expires_at: datetime
        user_id: UUID | None
        organization_id: UUID | None
        created_at: datetime
        updated_at: datetime

    class PlansRow(TypedDict):
        """plans: What is sold, at which price, with which limits. The only place where these stand."""

        id: UUID
        tier: SubscriptionTier
        billing_cycle: BillingCycle
        stripe_price_id: str | None
        amount_cents: int
        currency: str
        limits: Json
        is_active: bool
        created_at: datetime
        updated_at: datetime

    class StripeEventsRow(TypedDict):
        """stripe_events: Inbox: every event Stripe delivered, once. The state of an object is the fold of its events,
        in whatever order.
        """

        id: str
        type: str
        object_id: str | None
        object_type: str | None
        customer_id: str | None
        created: datetime
        api_version: str | None
        livemode: bool
        payload: Json | None
        state: Json | None
        before: Json | None
        place: int
        is_last: bool
        status: StripeEventStatus
        attempts: int
        error: str | None
        applied_at: datetime | None
        redacted_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class SubscriptionsRow(TypedDict):
        """subscriptions: What organisations buy and have bought; written only on Stripe's word."""

        id: UUID
        organization_id: UUID
        stripe_subscription_id: str | None
        stripe_customer_id: str | None
        status: SubscriptionStatus
        tier: SubscriptionTier
        billing_cycle: BillingCycle
        amount_cents: int
        current_period_start: datetime
        current_period_end: datetime
        cancel_at_period_end: bool
        cancelled_at: datetime | None
        past_due_since: datetime | None
        created_at: datetime
        updated_at: datetime

    class StripeObjectsRow(TypedDict):
        """stripe_objects: Subscriptions, payments, prices … of Stripe, as the events say they are now."""

        id: str
        type: str
        customer_id: str | None
        state: Json
        state_at: datetime
        is_last: bool
        fetched: Json | None
        fetched_at: datetime | None
        in_doubt_since: datetime | None
        waits_for: str | None
        created_at: datetime
        updated_at: datetime

    class RefundsDueRow(TypedDict):
        """refunds_due: Money that was paid and for which nothing can be given; given back by the job, or by decision of
        a platform admin.
        """

        id: UUID
        object_id: str
        onboarding_session_id: UUID | None
        stripe_payment_intent_id: str | None
        amount_cents: int
        currency: str
        reason: RefundReason
        status: RefundStatus
        refund_after: datetime
        tries: int
        stripe_refund_id: str | None
        error: str | None
        refunded_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class ActivityFeedReadsRow(TypedDict):
        """activity_feed_reads: Which feed entries one person has read; written by mark_feed_read()."""

        user_id: UUID
        activity_feed_id: UUID
        organization_id: UUID
        read_at: datetime

    class ActivityFeedsRow(TypedDict):
        """activity_feeds: What happened in an organisation, for everyone in it; page it with feed_page()."""

        id: UUID
        organization_id: UUID
        user_id: UUID | None
        title: str
        description: str | None
        type: DashboardActivityType
        entity_type: str
        entity_id: str
        action: str
        metadata: Json | None
        severity: ActivitySeverity
        is_read: bool
        is_pinned: bool
        is_archived: bool
        created_at: datetime

    class DashboardMetricsRow(TypedDict):
        """dashboard_metrics: Figures of the dashboard. Without organisation: of the system."""

        id: UUID
        organization_id: UUID | None
        name: str
        category: MetricCategory
        query: Json
        unit: str | None
        format: str
        target_value: float | None
        warning_threshold: float | None
        critical_threshold: float | None
        chart_type: str | None
        color: str
        icon: str | None
        permissions: list[str]
        refresh_rate: int
        last_calculated: datetime | None
        cached_value: float | None
        cached_result: Json | None
        created_by: UUID | None
        created_at: datetime
        updated_at: datetime

    class DashboardWidgetsRow(TypedDict):
        """dashboard_widgets: What an organisation can put on its dashboards."""

        id: UUID
        organization_id: UUID
        name: str
        type: WidgetType
        config: Json
        position: Json
        data_source: str | None
        refresh_rate: int
        is_visible: bool
        title: str | None
        chart_type: str | None
        permissions: list[str]
        created_by: UUID
        created_at: datetime
        updated_at: datetime

    class QuickActionsRow(TypedDict):
        """quick_actions: Buttons of the dashboard; run one with run_quick_action(). Without organisation: of the
        system.
        """

        id: UUID
        organization_id: UUID | None
        name: str
        description: str | None
        icon: str
        action_type: ActionType
        target_url: str | None
        api_endpoint: str | None
        form_config: Json | None
        color: str
        is_enabled: bool
        sort_order: int
        required_role: list[str]
        required_tier: list[str]
        usage_count: int
        last_used: datetime | None
        created_by: UUID | None
        created_at: datetime
        updated_at: datetime

    class UserDashboardsRow(TypedDict):
        """user_dashboards: How one person arranges the dashboard; nobody else sees it."""

        id: UUID
        user_id: UUID
        layout: Json
        widgets: list[UUID]
        theme: DashboardTheme
        density: LayoutDensity
        auto_refresh: bool
        quick_actions: list[UUID]
        pinned_modules: list[str]
        created_at: datetime
        updated_at: datetime

    class ActivitiesRow(TypedDict):
        """activities: What was done with a lead, contact, deal or listing."""

        id: UUID
        organization_id: UUID
        created_by_id: UUID
        lead_id: UUID | None
        contact_id: UUID | None
        deal_id: UUID | None
        listing_id: UUID | None
        type: ActivityType
        title: str
        description: str | None
        outcome: str | None
        duration_minutes: int | None
        completed_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class ContactsRow(TypedDict):
        """contacts: People the organisation deals with."""

        id: UUID
        organization_id: UUID
        assigned_to_id: UUID | None
        name: str
        email: str | None
        phone: str | None
        company: str | None
        position: str | None
        type: ContactType
        status: ContactStatus
        notes: str | None
        tags: list[str]
        custom_fields: Json | None
        budget: Decimal | None
        property_types: list[PropertyType]
        cities: list[str]
        min_bedrooms: int | None
        linkedin_url: str | None
        twitter_url: str | None
        preferred_contact_method: str | None
        last_contact_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class DealsRow(TypedDict):
        """deals: Business in the pipeline; moved by move_deal(), close_deal(), reopen_deal() or by writing stage."""

        id: UUID
        organization_id: UUID
        assigned_to_id: UUID | None
        lead_id: UUID | None
        contact_id: UUID | None
        listing_id: UUID | None
        title: str
        description: str | None
        value: Decimal
        stage: DealStage
        status: DealStatus
        probability: int
        expected_close_date: datetime | None
        actual_close_date: datetime | None
        lost_reason: str | None
        notes: str | None
        tags: list[str]
        custom_fields: Json | None
        created_at: datetime
        updated_at: datetime

    class LeadsRow(TypedDict):
        """leads: People who may become customers."""

        id: UUID
        organization_id: UUID
        assigned_to_id: UUID | None
        name: str
        email: str | None
        phone: str | None
        company: str | None
        source: LeadSource
        status: LeadStatus
        score: LeadScore
        score_value: int
        budget: Decimal | None
        property_types: list[PropertyType]
        cities: list[str]
        min_bedrooms: int | None
        timeline: str | None
        notes: str | None
        tags: list[str]
        custom_fields: Json | None
        converted_contact_id: UUID | None
        last_contact_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class ListingsRow(TypedDict):
        """listings: Properties for sale."""

        id: UUID
        organization_id: UUID
        assigned_to_id: UUID | None
        title: str
        description: str | None
        address: str
        city: str
        state: str
        zip_code: str
        country: str
        property_type: PropertyType
        bedrooms: int | None
        bathrooms: Decimal | None
        square_feet: int | None
        lot_size: Decimal | None
        year_built: int | None
        price: Decimal
        price_per_sqft: Decimal | None
        status: ListingStatus
        mls_number: str | None
        listing_date: datetime | None
        expiration_date: datetime | None
        images: list[str]
        virtual_tour_url: str | None
        features: list[str]
        notes: str | None
        tags: list[str]
        custom_fields: Json | None
        created_at: datetime
        updated_at: datetime

    class AgentTemplatesRow(TypedDict):
        """agent_templates: Presets of agents: an organisation's own, public ones, and those of the platform."""

        id: UUID
        name: str
        description: str
        category: AgentCategory
        avatar: str | None
        personality_config: Json
        model_config: Json
        tools_config: Json
        memory_config: Json
        tags: list[str]
        features: list[str]
        use_cases: list[str]
        usage_count: int
        rating: Decimal | None
        is_popular: bool
        is_public: bool
        is_system: bool
        organization_id: UUID | None
        created_by_id: UUID | None
        created_at: datetime
        updated_at: datetime

    class BuildLogsRow(TypedDict):
        """build_logs: What happened while an order was built. Append-only for everyone; gone only with its order."""

        id: UUID
        organization_id: UUID
        order_id: UUID
        stage: str
        message: str
        details: Json | None
        log_level: LogLevel
        created_at: datetime

    class CustomAgentOrdersRow(TypedDict):
        """custom_agent_orders: Agents that organisations have built. Its status moves only by advance_order()."""

        id: UUID
        title: str
        description: str
        requirements: Json
        use_case: str
        complexity: ComplexityLevel
        estimated_hours: int | None
        estimated_cost: Decimal | None
        status: OrderStatus
        status_changed_at: datetime
        status_reason: str | None
        priority: OrderPriority
        submitted_at: datetime | None
        started_at: datetime | None
        completed_at: datetime | None
        delivered_at: datetime | None
        progress: int
        progress_is_manual: bool
        current_stage: str | None
        agent_config: Json
        tools_config: Json
        organization_id: UUID
        created_by_id: UUID
        assigned_to_id: UUID | None
        created_at: datetime
        updated_at: datetime

    class OrderMilestonesRow(TypedDict):
        """order_milestones: Steps of a build; the completed share is the progress of the order."""

        id: UUID
        organization_id: UUID
        order_id: UUID
        name: str
        description: str | None
        stage: str
        due_date: datetime | None
        completed_at: datetime | None
        is_completed: bool
        sort_order: int
        created_at: datetime

    class ProjectShowcasesRow(TypedDict):
        """project_showcases: Finished work that organisations show to others."""

        id: UUID
        title: str
        description: str
        category: ShowcaseCategory
        image_url: str | None
        demo_url: str | None
        features: list[str]
        technologies: list[str]
        views: int
        likes: int
        is_public: bool
        is_featured: bool
        organization_id: UUID
        created_by_id: UUID
        created_at: datetime
        updated_at: datetime

    class ShowcaseLikesRow(TypedDict):
        """showcase_likes: Who likes what; people see their own."""

        showcase_id: UUID
        user_id: UUID
        created_at: datetime

    class TemplateReviewsRow(TypedDict):
        """template_reviews: What people think of a template; read within the reviewer's organisation."""

        id: UUID
        template_id: UUID
        rating: int
        review: str | None
        organization_id: UUID
        reviewer_id: UUID
        created_at: datetime
        updated_at: datetime

    class ToolBlueprintsRow(TypedDict):
        """tool_blueprints: Tools drawn as graphs; public ones can be cloned by others."""

        id: UUID
        name: str
        description: str
        category: ToolCategory
        components: Json
        connections: Json
        configuration: Json
        version: str
        tags: list[str]
        complexity: ComplexityLevel
        usage_count: int
        is_public: bool
        organization_id: UUID
        created_by_id: UUID
        created_at: datetime
        updated_at: datetime

    class AiConversationsRow(TypedDict):
        """ai_conversations: Talks of a member with a model; nobody else in the organisation reads them."""

        id: UUID
        organization_id: UUID
        user_id: UUID
        title: str | None
        context_type: str
        context_id: UUID | None
        ai_model: str
        conversation_data: Json
        usage_tokens: int
        is_archived: bool
        created_at: datetime
        updated_at: datetime

    class AiToolsRow(TypedDict):
        """ai_tools: The AI tools of the platform: everybody sees the active ones, platform admins write."""

        id: UUID
        name: str
        description: str | None
        tool_type: str
        required_tier: SubscriptionTier
        configuration: Json | None
        is_active: bool
        created_at: datetime
        updated_at: datetime

    class AppointmentsRow(TypedDict):
        """appointments: The calendar of an organisation."""

        id: UUID
        organization_id: UUID
        title: str
        description: str | None
        type: AppointmentType
        status: AppointmentStatus
        start_time: datetime
        end_time: datetime
        location: str | None
        meeting_url: str | None
        assigned_to: UUID | None
        customer_id: UUID | None
        lead_id: UUID | None
        contact_id: UUID | None
        deal_id: UUID | None
        listing_id: UUID | None
        reminders_sent: Json | None
        created_at: datetime
        updated_at: datetime

    class AttachmentsRow(TypedDict):
        """attachments: Files in the bucket `attachments`, each at something of the organisation. An upload makes its
        row; a row made before holds the room for an upload to come.
        """

        id: UUID
        organization_id: UUID
        entity_type: str
        entity_id: UUID
        file_name: str
        file_size: int
        mime_type: str
        file_path: str
        uploaded_by_id: UUID | None
        stored_at: datetime | None
        created_at: datetime
        updated_at: datetime

    class ContentRow(TypedDict):
        """content: Pages, posts and documents; anyone reads what is PUBLISHED."""

        id: UUID
        organization_id: UUID
        title: str
        slug: str
        content_type: ContentType
        content: str
        excerpt: str | None
        status: ContentStatus
        author_id: UUID | None
        published_at: datetime | None
        seo_meta: Json | None
        created_at: datetime
        updated_at: datetime

    class CustomersRow(TypedDict):
        """customers: The customers of an organisation."""

        id: UUID
        organization_id: UUID
        name: str
        email: str | None
        phone: str | None
        company: str | None
        status: CustomerStatus
        source: CustomerSource
        tags: list[str]
        custom_fields: Json | None
        assigned_to: UUID | None
        created_at: datetime
        updated_at: datetime

    class NotificationsRow(TypedDict):
        """notifications: Messages to one member, created only by the server (private.notify())."""

        id: UUID
        organization_id: UUID
        user_id: UUID
        type: NotificationType
        title: str
        message: str
        action_url: str | None
        entity_type: str | None
        entity_id: UUID | None
        read: bool
        created_at: datetime
        updated_at: datetime

    class ProjectsRow(TypedDict):
        """projects: What an organisation does for its customers or itself."""

        id: UUID
        organization_id: UUID
        customer_id: UUID | None
        name: str
        description: str | None
        status: ProjectStatus
        priority: Priority
        start_date: datetime | None
        due_date: datetime | None
        completion_date: datetime | None
        budget: Decimal | None
        progress_percentage: int
        project_manager_id: UUID | None
        created_at: datetime
        updated_at: datetime

    class TasksRow(TypedDict):
        """tasks: Steps of a project, which may have steps of their own."""

        id: UUID
        organization_id: UUID
        project_id: UUID
        parent_task_id: UUID | None
        title: str
        description: str | None
        status: TaskStatus
        priority: Priority
        assigned_to: UUID | None
        created_by: UUID | None
        due_date: datetime | None
        estimated_hours: Decimal | None
        actual_hours: Decimal | None
        tags: list[str]
        position: int
        created_at: datetime
        updated_at: datetime

    class UsageTrackingRow(TypedDict):
        """usage_tracking: What an organisation used in a month (UTC), appended by the server."""

        id: UUID
        organization_id: UUID
        user_id: UUID | None
        resource_type: ResourceType
        resource_name: str
        usage_amount: int
        billing_period: str
        metadata: Json | None
        created_at: datetime
        updated_at: datetime

    class FeatureFlagExposuresRow(TypedDict):
        """feature_flag_exposures: Who has met which variant of a flag: the first meeting of every unit. Written by
        record-exposure only.
        """

        flag_id: UUID
        seed: UUID
        unit: str
        variant: str
        created_at: datetime

    class FeatureFlagGroupMembersRow(TypedDict):
        """feature_flag_group_members: What belongs to a group: any value of an attribute, mostly ids."""

        group_id: UUID
        value: Json
        created_at: datetime

    class FeatureFlagGroupsRow(TypedDict):
        """feature_flag_groups: Saved groups: lists of values that conditions name by $inGroup and $notInGroup. Only
        platform admins see them.
        """

        id: UUID
        name: str
        description: str | None
        revision: UUID
        created_at: datetime
        updated_at: datetime

    class FeatureFlagsRow(TypedDict):
        """feature_flags: Which features are on, for whom. Only platform admins see the rules."""

        id: UUID
        name: str
        description: str | None
        is_enabled: bool
        rollout_percent: float
        target_tiers: list[SubscriptionTier]
        target_orgs: list[UUID]
        target_users: list[UUID]
        conditions: Json | None
        environment: Environment
        category: str | None
        seed: UUID
        bucket_by: str
        variants: Json | None
        starts_at: datetime | None
        ends_at: datetime | None
        prerequisites: list[str] | None
        version: int
        created_at: datetime
        updated_at: datetime
        created_by: UUID

    class PlatformMetricsRow(TypedDict):
        """platform_metrics: How the platform does, one row per UTC day."""

        id: UUID
        date: date
        total_users: int
        active_users: int
        new_users: int
        total_orgs: int
        active_orgs: int
        new_orgs: int
        mrr_cents: int
        arr_cents: int
        churn_rate: float
        free_count: int
        starter_count: int
        growth_count: int
        elite_count: int
        enterprise_count: int
        total_storage: int
        api_calls: int
        created_at: datetime
        measured_at: datetime
        is_estimated: bool
