"""Every table and type of the original specification exists under its name, with policies."""

import pytest

from tests.support.world import Database

TABLES = """
users organizations organization_members organization_invitations plans subscriptions
customers projects tasks appointments
notifications attachments content activity_logs usage_tracking ai_tools ai_conversations
admin_action_logs onboarding_sessions platform_metrics feature_flags system_alerts
dashboard_widgets user_dashboards activity_feeds quick_actions dashboard_metrics
custom_agent_orders agent_templates tool_blueprints order_milestones build_logs template_reviews project_showcases
leads contacts deals listings activities
""".split()  # noqa: SIM905 - words read better than a list of quotes
TYPES = """
UserRole OrgRole SubscriptionTier SubscriptionStatus CustomerStatus CustomerSource ProjectStatus TaskStatus Priority
AppointmentStatus AppointmentType NotificationType ContentType ContentStatus ResourceType
AdminAction PaymentStatus BillingCycle Environment AlertLevel AlertCategory
WidgetType DashboardTheme LayoutDensity DashboardActivityType ActivitySeverity ActionType MetricCategory
ComplexityLevel OrderStatus OrderPriority AgentCategory ToolCategory LogLevel ShowcaseCategory
LeadSource LeadStatus LeadScore ContactType ContactStatus DealStage DealStatus PropertyType ListingStatus ActivityType
""".split()  # noqa: SIM905 - words read better than a list of quotes


@pytest.mark.parametrize(
    ("names", "query"),
    [
        (TABLES, "select table_name from information_schema.columns where table_schema = 'public'"),
        (TABLES, "select tablename from pg_policies where schemaname = 'public'"),
        (TYPES, "select typname from pg_type where typtype = 'e'"),
    ],
    ids=["tables", "policies", "types"],
)
def test_none_is_missing(database: Database, names: list[str], query: str) -> None:
    with database.connect() as connection:
        found = {name for (name,) in connection.execute(query)}
    assert sorted(set(names) - found) == []
