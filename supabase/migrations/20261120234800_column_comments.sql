-- Column comments: shown in the Supabase dashboard for columns that their own chapter leaves out. First the meaning of
-- a name in every table, then its meaning in one table. `table.column: comment` beats `column: comment`.

do $comments$
declare
  meanings constant text := $$
id: Identifies the row.
organization_id: The organization the row belongs to; by default the one the request acts in.
user_id: The user the row belongs to.
created_at: When the row was created (UTC).
updated_at: When the row was last changed (UTC); kept by the database.
created_by: Who created it; set by the database.
created_by_id: Who created it; set by the database.
assigned_to_id: The member who is responsible; null while unassigned.
assigned_to: The member who is responsible; null while unassigned.
name: What it is called, as people see it.
title: The line that lists show.
description: What it is, in a few sentences.
notes: Remarks of the organization, not shown to others.
tags: Words to group and filter by.
custom_fields: Fields of the organization's own, as {"name": value}.
email: E-mail address.
phone: Telephone number, as it was typed; compared by its digits.
company: The company, by name.
position: Job title.
status: Its state.
type: Its kind.
category: The group it is listed under.
priority: How urgent it is.
source: Through which channel it came, such as WEBSITE or REFERRAL.
lead_id: The lead it is about.
contact_id: The contact it is about.
deal_id: The deal it is about.
listing_id: The listing it is about.
customer_id: The customer it is about.
company_id: The company it is about.
order_id: The agent order it belongs to.
completed_at: When it was completed.
due_date: Until when it is to be done.
started_at: When it started; null: it has not.
finished_at: When it finished; null while it runs.
starts_at: From when it applies.
ends_at: Until when it applies; null: without end.
expires_at: Until when it is valid.
metadata: Additional facts, as {"name": value}.
is_active: False: it is kept but no longer used.
is_public: True: every signed-in user sees it, whatever their organization.
is_archived: True: hidden from the usual lists.
is_completed: Whether it is done.
icon: Name of the icon that is shown with it.
color: Color it is shown in.
chart_type: How it is drawn, such as line or bar.
sort_order: Place in the list, lowest first.
message: The text that people read.
error: Why it failed; null if it did not.
attempts: How often it was tried.
min_bedrooms: The fewest bedrooms they want; null: any number.
preferred_contact_method: How they like to be contacted: email, phone or text.
stripe_customer_id: The customer at Stripe (cus_…).
stripe_subscription_id: The subscription at Stripe (sub_…).
stripe_payment_intent_id: The payment at Stripe (pi_…).
stripe_price_id: The price at Stripe (price_…).
billing_cycle: MONTHLY or YEARLY.
tier: The plan: FREE, STARTER, GROWTH, ELITE or ENTERPRISE.
currency: Currency, three lower-case letters.
amount_cents: Amount in the smallest unit of the currency.
current_period_start: When the paid period began.
current_period_end: When the paid period ends.
permissions: What a member must hold to see it; empty: nothing.
alert_id: The alert it is about (system_alerts).
billing_email: Where invoices go.
ip_address: The address the request came from.
user_agent: The program that sent the request, as it names itself.
address: The client address or network that the requests come from.
answer: The response that the first request got.
because: The reason for the treatment.
bucket_id: The bucket of Storage that has the file.
by_builder: Whether the builder of the order may make the move.
by_creator: Whether the creator of the order may make the move.
by_platform: Whether platform admins may make the move.
captured: The number of leads.
change: The change of the counter.
changed_at: When it last changed.
counter: What is counted.
day: The day (UTC).
dismissals: The number of dismissals.
listed_at: When the file was listed for deletion.
due_at: When it is due.
environment: The environment of the flag.
first_at: The first time on this day.
flag_id: The flag (feature_flags).
follow_up_after: How long such a lead may wait for contact.
format: ndjson or csv.
from_status: The status before the move.
from_step: The step before the move.
group_id: The group of targets (feature_flag_groups).
highest: The highest score_value of the score.
hour: The hour (UTC) that is counted.
is_overdue: Whether it should have run by now.
is_running: Whether it runs now.
job: The job, by its name in private.jobs.
key: The header Idempotency-Key of the request.
last_at: The last time on this day.
last_done_at: When it last succeeded.
last_error: Why the last run failed.
last_outcome: How the last run ended.
last_result: What the last run returned.
last_run_at: When it last ran.
last_used_at: When it was last used.
lowest: The lowest score_value of the score.
meaning: The meaning of the status.
minimum_role: The lowest role that may make the move.
minute: The minute (UTC) that is counted.
moves_to: The stages a deal may move to from here.
needs_reason: Whether a reason must be given.
operation: What the request was for, so that a key is used for one operation only.
outcome: How it ended.
payment_status: State of the payment, as Stripe reports it.
per_minute: How many leads a minute may come with it.
reason: Why it was done, as it was given.
relation: The table it is about, with its schema unless that is public.
requested_by: Who requested it.
result: What it returned, for example how many rows it changed.
revoked_at: When it was revoked; null: it is valid.
rotated_at: When its text was last replaced.
schedule: When it runs (UTC), as a crontab line.
score: HOT, WARM or COLD.
session_id: The onboarding session it belongs to.
settled_at: When it was done; null: it is due.
stage: The stage of the pipeline, LEAD to CLOSED_LOST.
started: The number of sessions that were started.
stripe_status: The status at Stripe.
subject_id: The row that is counted.
took: How long it ran.
token_hash: SHA-256 (hex) of the token; the token itself is not kept.
token_id: The token of a website (capture_tokens).
to_status: The status after the move.
to_step: The step after the move.
version: Grows with every change.
views: The number of views.
attempt: The number of the attempt.
admin_id: The platform admin.
activities.type: What was done: CALL, EMAIL, MEETING, NOTE, ….
activities.outcome: The result.
activities.duration_minutes: How long it took.
activities.completed_at: When it was done; null: it is still planned.
activity_feed_reads.activity_feed_id: The entry that was read.
activity_feed_reads.read_at: When it was read.
activity_feeds.entity_type: What the entry is about, such as deal.
activity_feeds.action: What happened, such as moved or converted.
activity_feeds.severity: How important it is.
activity_feeds.is_pinned: True: shown above the others, for everyone.
admin_action_logs.action: What was done.
admin_action_logs.target_id: What it was done to.
admin_action_logs.success: False: it was refused or failed.
agent_templates.avatar: Address of a picture.
agent_templates.personality_config: Tone, style and instructions of the agent.
agent_templates.model_config: Settings of the model, such as temperature.
agent_templates.tools_config: Tools the agent may use.
agent_templates.memory_config: What the agent remembers, and for how long.
agent_templates.features: What it can do, for the gallery.
agent_templates.use_cases: What it is for, for the gallery.
agent_templates.is_popular: Used more than ten times and rated 4 or better; computed.
agent_templates.organization_id: The organization that made it; null: the system.
ai_conversations.context_type: What the conversation is about, such as lead.
ai_conversations.context_id: The record it is about.
ai_conversations.ai_model: The model that answers.
ai_conversations.conversation_data: The messages, as the client keeps them.
ai_tools.tool_type: Kind of the tool.
appointments.type: MEETING, CALL, SHOWING, OPEN_HOUSE, FOLLOW_UP or OTHER.
appointments.status: SCHEDULED and CONFIRMED are to come; COMPLETED, CANCELLED and NO_SHOW are over.
appointments.start_time: When it begins (UTC).
appointments.end_time: When it ends (UTC); after it begins.
appointments.location: Where it takes place.
appointments.meeting_url: Address of the video meeting.
attachments.entity_id: The record it is attached to; after a merge the one that was kept.
attachments.file_name: Name of the file.
attachments.file_size: Size in bytes, at most 50 MB.
attachments.mime_type: Type of the content, such as application/pdf.
attachments.file_path: Its path in the bucket attachments; attachment_path() makes one.
billing_attention.kind: What kind of thing needs a person.
billing_attention.id: The event, refund or object.
billing_attention.subject: What it is about.
billing_attention.reason: Why it needs a person.
billing_attention.what_to_do: What to do.
billing_attention.object_id: The object at Stripe.
billing_attention.customer_id: The customer at Stripe.
billing_attention.since: Since when.
build_logs.details: Additional facts, as {"name": value}.
build_logs.log_level: How serious it is.
contacts.type: What they are to the organization: PROSPECT, CLIENT, PAST_CLIENT, PARTNER or VENDOR.
contacts.status: ACTIVE; INACTIVE; DO_NOT_CONTACT: not to be approached.
contacts.company: Where they work, as text; naming a company links or adds it.
contacts.linkedin_url: Address of their LinkedIn profile.
contacts.twitter_url: Address of their profile on X.
content.slug: Its name in URLs; unique in the organization.
content.content_type: PAGE, BLOG_POST, DOCUMENTATION or TEMPLATE.
content.content: The text.
content.excerpt: The first sentences, for lists.
content.status: DRAFT and ARCHIVED are for members, PUBLISHED is for anyone.
content.seo_meta: Metadata for search engines: {"title", "description", …}.
custom_agent_orders.use_case: What the agent is for.
custom_agent_orders.complexity: SIMPLE to ENTERPRISE; decides the estimate.
custom_agent_orders.status: The state of the order; moved by submit_order() and advance_order().
custom_agent_orders.status_changed_at: Since when it has this status.
custom_agent_orders.submitted_at: When it was submitted.
custom_agent_orders.delivered_at: When it was delivered.
custom_agent_orders.agent_config: Settings of the agent.
custom_agent_orders.tools_config: Tools the agent may use.
customers.status: LEAD, PROSPECT, ACTIVE or CHURNED.
dashboard_metrics.unit: The unit of the value, such as deals.
dashboard_metrics.format: How the value is written: number, currency or percentage.
dashboard_metrics.target_value: What the value should reach.
dashboard_metrics.warning_threshold: From here on it is a warning; above critical_threshold: lower is worse.
dashboard_metrics.critical_threshold: From here on it is critical.
dashboard_metrics.last_calculated: When cached_value was calculated.
dashboard_metrics.organization_id: The organization; null: a metric of the system.
dashboard_widgets.type: What it shows.
dashboard_widgets.config: Its settings; which ones depends on the type.
dashboard_widgets.data_source: Where its data come from, for widgets of the client's own.
dashboard_widgets.is_visible: False: hidden from every dashboard.
deals.lead_id: The lead it came from.
deals.contact_id: Whom the deal is made with.
deals.company_id: The company it is made with.
deals.listing_id: The property it is about.
deals.stage: LEAD to CLOSING are open; CLOSED_WON and CLOSED_LOST are closed.
deals.expected_close_date: When it should be closed; the forecast goes by it.
deals.actual_close_date: When it was closed; set by the database.
feature_flag_exposures.flag_id: The flag.
feature_flag_exposures.variant: What the unit was shown.
feature_flag_group_members.group_id: The group.
feature_flag_group_members.value: The member: a value of the attribute the group is compared with.
feature_flags.is_enabled: False: off for everybody, whatever else is set.
feature_flags.environment: DEVELOPMENT, STAGING or PRODUCTION.
leads.source: Where they came from.
leads.status: Progress of the lead; only convert_lead() sets CONVERTED.
leads.score_value: 0 to 100; moves together with score.
leads.timeline: When they want to buy or sell, in words.
listings.address: Street and number.
listings.city: City; compared with the wishes of buyers.
listings.state: State or region.
listings.zip_code: Postal code.
listings.country: Country.
listings.property_type: Kind of property.
listings.bedrooms: How many bedrooms.
listings.bathrooms: How many bathrooms; halves are allowed.
listings.square_feet: Living area in square feet.
listings.lot_size: Size of the lot.
listings.year_built: Year it was built.
listings.price: Asking price in the organization's currency.
listings.status: ACTIVE: it can be bought; changes are noted in the feed.
listings.mls_number: Its number in the multiple listing service.
listings.listing_date: When it was listed.
listings.expiration_date: When the listing expires.
listings.virtual_tour_url: Address of a virtual tour.
listings.features: What is special about it.
notifications.user_id: Who is notified.
notifications.type: INFO, SUCCESS, WARNING or ERROR.
notifications.action_url: Where a click leads.
notifications.entity_type: What it is about, such as lead.
notifications.entity_id: The record it is about.
notifications.read: Whether the user has read it.
onboarding_sessions.total_steps: How many steps there are.
onboarding_sessions.org_name: Step 1: name of the new organization.
onboarding_sessions.org_website: Step 1: its website.
onboarding_sessions.org_description: Step 1: what it does.
onboarding_sessions.selected_tier: Step 2: the plan.
order_milestones.stage: design, development, testing, deployment or another.
organization_invitations.email: The address that is invited.
organization_invitations.role: The role it will have.
organization_invitations.invited_by: Who invited.
organization_invitations.accepted_at: When it was accepted; null: open.
organization_members.user_id: The member.
organization_members.organization_id: The organization.
organization_members.role: OWNER, ADMIN, MEMBER or VIEWER.
organization_members.joined_at: When they joined.
organizations.slug: Its name in URLs; unique, lower-case words joined by hyphens.
organizations.website: Address of its website.
organizations.settings: Settings of the clients, as {"name": value}.
organizations.subscription_status: State of its plan; follows the live subscription.
organizations.billing_email: Where invoices go.
platform_metrics.date: The day (UTC).
platform_metrics.total_users: Number of users.
platform_metrics.new_users: Users that signed up on the day.
platform_metrics.total_orgs: Number of organizations.
platform_metrics.new_orgs: Organizations created on the day.
platform_metrics.starter_count: Organizations of this tier.
platform_metrics.growth_count: Organizations of this tier.
platform_metrics.elite_count: Organizations of this tier.
platform_metrics.enterprise_count: Organizations of this tier.
project_showcases.image_url: Address of a picture.
project_showcases.demo_url: Address of a demonstration.
project_showcases.features: What it can do.
project_showcases.technologies: What it is made with.
projects.customer_id: For whom; null: for the organization itself.
projects.status: PLANNING, ACTIVE, ON_HOLD, COMPLETED or CANCELLED.
projects.start_date: When it begins.
projects.budget: The budget, in the organization's currency.
projects.progress_percentage: How far it is, 0 to 100.
quick_actions.organization_id: The organization; null: an action of the system.
quick_actions.action_type: What happens: NAVIGATION and EXTERNAL_LINK need target_url.
quick_actions.target_url: Where it leads: a path or an http(s) address.
quick_actions.api_endpoint: What API_CALL calls: a path or an http(s) address.
quick_actions.form_config: The form of MODAL_FORM.
quick_actions.is_enabled: False: hidden.
quick_actions.last_used: When it was last run.
refunds_due.onboarding_session_id: The session it was paid in.
refunds_due.reason: Why it is to be refunded.
refunds_due.status: TO_DECIDE needs a person; the others are handled by the job.
refunds_due.tries: How often the refund was tried.
refunds_due.stripe_refund_id: The refund at Stripe (re_…).
refunds_due.refunded_at: When it was refunded.
showcase_likes.showcase_id: What is liked.
stripe_events.id: The event at Stripe (evt_…); one is received once.
stripe_events.type: Kind of the event, such as invoice.paid.
stripe_events.livemode: Whether it is of live mode, about real money.
stripe_events.status: APPLIED and IGNORED are done; PARKED and QUARANTINED wait, see billing_attention.
stripe_events.applied_at: When it was applied.
stripe_events.redacted_at: When its content was deleted.
stripe_objects.id: The object at Stripe.
stripe_objects.type: Kind of the object.
stripe_objects.customer_id: Its customer at Stripe.
stripe_objects.fetched_at: When it was last fetched from Stripe.
subscriptions.cancel_at_period_end: Whether it ends with the paid period.
subscriptions.cancelled_at: When it was cancelled.
system_alert_dismissals.user_id: Who dismissed it.
system_alert_views.user_id: Who saw it.
system_alerts.level: INFO, SUCCESS, WARNING or ERROR.
system_alerts.target_roles: Users with one of these roles see it.
system_alerts.target_tiers: Organizations with one of these plans see it.
system_alerts.target_orgs: These organizations see it.
system_alerts.target_users: These users see it.
system_alerts.is_dismissible: Whether a user may hide it.
system_alerts.is_active: False: it is not shown.
template_reviews.rating: 1 to 5.
template_reviews.review: The text of the review.
template_reviews.organization_id: The organization of the reviewer.
template_reviews.reviewer_id: Who reviewed; once for each template.
tool_blueprints.components: The parts of the tool.
tool_blueprints.connections: How the parts are connected.
tool_blueprints.configuration: Its settings.
tool_blueprints.version: Semantic version, such as 1.2.0.
tool_blueprints.complexity: SIMPLE to ENTERPRISE.
user_dashboards.layout: Where the widgets are placed.
user_dashboards.theme: LIGHT, DARK or AUTO.
user_dashboards.density: COMPACT, NORMAL or SPACIOUS.
user_dashboards.auto_refresh: Whether widgets refresh by themselves.
user_dashboards.pinned_modules: Modules that the user pinned.
checkouts.status: OPEN, PAID or EXPIRED: what became of the page at Stripe.
checkouts.requested_by: The owner who opened the page.
companies.address: Street, postal code and city, as one text.
customers.name: Their name, or that of their company.
customers.company: The company they work for, as text.
admin_action_logs.description: What was done, in words.
agent_templates.category: The shelf of the gallery, such as SALES.
ai_tools.name: What agents and people choose it by.
api_key_operations.scope: The scope a key needs to call it.
build_logs.message: What happened, in words.
content.title: Heading of the page or post.
content.author_id: Who wrote it; set by the database.
custom_agent_orders.title: What the agent is called.
custom_agent_orders.priority: How soon the customer needs it.
deals.title: What the deal is called in the pipeline.
deal_stages.status: The outcome that belongs to the stage: ACTIVE, WON or LOST.
emails.status: QUEUED, HELD (for the digest) and SENDING are due; SENT is done; UNCERTAIN, FAILED and CANCELLED are given up.
invoices.status: DRAFT, OPEN, PAID, VOID or UNCOLLECTIBLE, as at Stripe.
leads.name: Name of the person.
leads.email: Compared without case to find duplicates.
leads.company: The company they work for, as text; convert_lead() links it.
contacts.name: Name of the person.
contacts.email: Compared without case to find duplicates.
listings.title: Heading of the offer.
metric_columns.kind: What a query may do with it: number, time, choice, text, flag, id or list.
metric_columns.source: The table (metric_sources).
metric_columns.name: The column, as queries name it.
metric_sources.name: The table, as queries name it in "source".
notifications.title: Heading of the message.
notifications.message: The message itself.
onboarding_payments.status: State of the payment, as Stripe reports it.
order_milestones.name: What is to be done, such as design.
organizations.name: As members and invoices show it.
organizations.description: What the organization does; shown to its members.
payment_statuses.status: What a session shows for it.
project_showcases.title: Name of the project.
projects.name: What the project is called.
stripe_tasks.kind: What is changed at Stripe, such as CANCEL_SUBSCRIPTION.
subscription_statuses.status: What a subscription shows for it.
system_alerts.title: Heading of the alert.
system_alerts.message: The text of the alert.
users.name: Their name, as colleagues see it; null: they have not given one.
webhook_deliveries.kind: The kind of the event that is delivered (event_kinds).
webhook_deliveries.status: PENDING waits or is retried; DELIVERED and FAILED are final.
users.email: The address they sign in with; follows auth.users.
users.avatar_url: Address of a picture.
users.last_login_at: When they last signed in.
users.suspended_at: Since when they are suspended; null: they are not.
users.suspended_reason: Why they are suspended.
$$;
  uncommented record;
begin
  for uncommented in
    with meaning as materialized (
      select split_part(line, ':', 1) as place, trim(substring(line from ': (.*)$')) as text
      from regexp_split_to_table(meanings, '\n') line
    )
    select distinct on (c.oid, a.attnum) c.oid::regclass as relation, a.attname, m.text as meaning
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join meaning m on m.place in (c.relname || '.' || a.attname, a.attname::text)
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p', 'v')
      and pg_catalog.col_description(c.oid, a.attnum) is null
    order by c.oid, a.attnum, strpos(m.place, '.') > 0 desc
  loop
    execute format('comment on column %s.%I is %L', uncommented.relation, uncommented.attname, uncommented.meaning);
  end loop;
end $comments$;
