-- Events: the catalog of what people are notified of. A kind is named source.subject.action. Triggers and operations of
-- each domain publish events with private.publish_event(), in the transaction of what happened (chapter notices).

create type "NotificationType" as enum ('INFO', 'SUCCESS', 'WARNING', 'ERROR');
comment on type "NotificationType" is 'Color of a notification.';
create type "EmailDelivery" as enum ('NOW', 'DIGEST', 'OFF');
comment on type "EmailDelivery" is 'Whether an event is mailed at once, in the daily digest, or not at all.';

create table private.event_kinds (
  kind text primary key constraint "a kind is source.subject.action in lower-case words"
    check (kind ~ '^[a-z]+(_[a-z]+)*(\.[a-z]+(_[a-z]+)*){2}$'),
  description text not null,
  type "NotificationType" not null default 'INFO',
  path text constraint "path is a path of the app" check (path ~ '^/[^/]' and length(path) <= 200),
  in_app boolean not null default true,
  email "EmailDelivery" not null default 'NOW',
  is_mandatory boolean not null default false,
  reaches_actor boolean not null default false,
  needs_membership boolean not null default true,
  is_webhook boolean not null default true,
  subjects text[],
  details jsonb not null default '{}' constraint "details are properties of a JSON Schema" check (jsonb_typeof(details) = 'object')
);
comment on table private.event_kinds is 'Every kind of event, with its defaults; docs/notifications.md lists the same.';
comment on column private.event_kinds.kind is 'source.subject.action, such as crm.lead.assigned.';
comment on column private.event_kinds.description is 'What happened, as the settings of a person show it.';
comment on column private.event_kinds.type is 'Color of its notifications, unless the event names another.';
comment on column private.event_kinds.path is 'Where its link leads in the app; {id} is the id of the subject.';
comment on column private.event_kinds.in_app is 'Whether it is a notification in the app, unless somebody chose otherwise.';
comment on column private.event_kinds.email is 'Whether it is mailed, unless somebody chose otherwise.';
comment on column private.event_kinds.is_mandatory is 'True: the defaults always count (security, billing).';
comment on column private.event_kinds.reaches_actor is 'True: also the person whose request caused the event is notified.';
comment on column private.event_kinds.needs_membership is 'False: also reaches people who do not belong to the organization, by e-mail.';
comment on column private.event_kinds.is_webhook is 'Whether webhooks of an organization may subscribe to it.';
comment on column private.event_kinds.subjects is 'What it may be about, as the payload of webhooks says; null: anything.';
comment on column private.event_kinds.details is
  'What its data may have, as properties of a JSON Schema. Webhooks get nothing else, so no secret by mistake.';

insert into private.event_kinds (kind, description, type, path, email) values
  ('crm.lead.assigned', 'A lead was assigned to you', 'INFO', '/leads/{id}', 'NOW'),
  ('crm.lead.captured', 'Somebody wrote through your website', 'INFO', '/leads/{id}', 'NOW'),
  ('crm.contact.assigned', 'A contact was assigned to you', 'INFO', '/contacts/{id}', 'NOW'),
  ('crm.deal.assigned', 'A deal was assigned to you', 'INFO', '/deals/{id}', 'NOW'),
  ('crm.deal.won', 'A deal was won', 'SUCCESS', '/deals/{id}', 'DIGEST'),
  ('crm.deal.lost', 'A deal was lost', 'WARNING', '/deals/{id}', 'DIGEST'),
  ('crm.listing.assigned', 'A listing was assigned to you', 'INFO', '/listings/{id}', 'NOW'),
  ('crm.listing.matched', 'A new listing suits your buyers', 'INFO', '/listings/{id}', 'NOW'),
  ('crm.buyer.matched', 'A new buyer looks for one of your listings', 'INFO', null, 'NOW'),
  ('work.project.assigned', 'A project was assigned to you', 'INFO', '/projects/{id}', 'NOW'),
  ('work.task.assigned', 'A task was assigned to you', 'INFO', '/tasks/{id}', 'NOW'),
  ('work.task.due', 'A task of yours is due within a day', 'INFO', '/tasks/{id}', 'DIGEST'),
  ('work.task.overdue', 'A task of yours is overdue', 'WARNING', '/tasks/{id}', 'NOW'),
  ('work.appointment.assigned', 'An appointment was assigned to you', 'INFO', '/appointments/{id}', 'NOW'),
  ('work.appointment.reminder', 'An appointment of yours begins soon', 'INFO', '/appointments/{id}', 'NOW'),
  ('work.note.mentioned', 'You were mentioned in a note', 'INFO', null, 'NOW'),
  ('garage.order.assigned', 'You build an agent order', 'INFO', '/orders/{id}', 'NOW'),
  ('garage.order.moved', 'An order of yours has a new status', 'INFO', '/orders/{id}', 'NOW'),
  ('organization.member.joined', 'Somebody joined the organization', 'SUCCESS', '/settings/members', 'DIGEST'),
  ('organization.message.sent', 'A message from the server to members', 'INFO', null, 'OFF');

insert into private.event_kinds (kind, description, type, path, reaches_actor, is_webhook) values
  ('organization.export.ready', 'Data of your organization was exported', 'SUCCESS', '/settings/export', true, true),
  ('organization.summary.weekly', 'The week of your organization, for owners', 'INFO', '/dashboard', true, false);

insert into private.event_kinds (kind, description, type, path, in_app, is_mandatory, reaches_actor, needs_membership, is_webhook) values
  ('organization.member.invited', 'You are invited to an organization', 'INFO', null, false, true, true, false, false),
  ('organization.invitation.expiring', 'Your invitation expires soon', 'INFO', null, false, true, true, false, false),
  ('organization.member.role_changed', 'Your role in an organization was changed', 'INFO', '/settings/members', true, true, false, true, true),
  ('organization.member.removed', 'You were removed from an organization', 'WARNING', null, false, true, false, false, true),
  ('organization.access.suspended', 'Your organization is suspended', 'ERROR', '/settings/billing', true, true, true, true, false),
  ('organization.access.restored', 'Your organization is no longer suspended', 'SUCCESS', '/settings/billing', true, true, true, true, false),
  ('account.access.suspended', 'Your account is suspended', 'ERROR', null, false, true, false, false, false),
  ('account.access.restored', 'Your account is no longer suspended', 'SUCCESS', null, false, true, false, false, false),
  ('platform.alert.raised', 'An alert of level ERROR, for the people it names', 'ERROR', null, false, true, true, false, false);

insert into private.event_kinds (kind, description, path, email, is_webhook) values
  ('work.appointment.invited', 'You are invited to an appointment', '/appointments/{id}', 'NOW', false),
  ('work.appointment.changed', 'An appointment that you attend was moved or cancelled', '/appointments/{id}', 'NOW', false),
  ('work.appointment.answered', 'An attendee answered your invitation', '/appointments/{id}', 'DIGEST', false);

insert into private.event_kinds (kind, description, path, in_app, reaches_actor, is_webhook) values
  ('account.digest.sent', 'The daily digest of events that you do not want mailed at once', '/notifications', false, true, false);

insert into private.event_kinds (kind, description, type, path, is_mandatory, reaches_actor)
select k.kind, k.description, k.type::public."NotificationType", '/settings/billing', true, true from (values
  ('billing.plan.started', 'Your plan begins', 'SUCCESS'),
  ('billing.plan.changed', 'Your plan, its cycle or its seats changed', 'INFO'),
  ('billing.plan.ending', 'Your plan ends on a date', 'INFO'),
  ('billing.plan.continued', 'Your plan does not end after all', 'INFO'),
  ('billing.plan.ended', 'Your plan has ended', 'WARNING'),
  ('billing.plan.renewing', 'Your yearly plan renews in a week', 'INFO'),
  ('billing.trial.ending', 'Your trial ends in three days', 'WARNING'),
  ('billing.payment.failed', 'A payment failed', 'ERROR'),
  ('billing.payment.recovered', 'A late payment has arrived, or is no longer due', 'SUCCESS'),
  ('billing.card.refused', 'A card could not be saved', 'ERROR'),
  ('billing.card.expiring', 'Your card expires before the next payment', 'WARNING'),
  ('billing.refund.issued', 'You are refunded', 'INFO'),
  ('billing.refund.failed', 'A refund of yours has failed', 'WARNING'),
  ('billing.dispute.opened', 'A payment is disputed', 'WARNING'),
  ('billing.usage.near_limit', 'You have used 80 % of what your plan includes', 'WARNING'),
  ('billing.usage.at_limit', 'You have used all that your plan includes', 'ERROR')
) k (kind, description, type);

-- Without subjects, the kind names its subject.
do $$
declare
  v record;
begin
  for v in select * from (values
    ('crm.%.assigned', null, '{"ids": {"type": "array", "items": {"type": "string", "format": "uuid"}}}'),
    ('work.%.assigned', null, '{"ids": {"type": "array", "items": {"type": "string", "format": "uuid"}}}'),
    ('garage.order.assigned', null, '{}'),
    ('crm.lead.captured', '{lead,contact}', '{}'),
    ('crm.deal.won', null, '{"value": {"type": ["number", "null"]}}'),
    ('crm.deal.lost', null, '{"value": {"type": ["number", "null"]}}'),
    ('crm.listing.matched', null, '{}'),
    ('crm.buyer.matched', '{lead,contact}', '{"listing_ids": {"type": "array", "items": {"type": "string", "format": "uuid"}}}'),
    ('organization.export.ready', '{organization}', '{"export_id": {"type": "string", "format": "uuid"}}'),
    ('work.task.due', null, '{}'),
    ('work.task.overdue', null, '{}'),
    ('work.appointment.reminder', null, '{"at": {"type": "string", "format": "date-time"}, "minutes": {"type": "integer"}}'),
    ('work.note.mentioned', null, '{}'),
    ('garage.order.moved', null, '{"from": {"type": "string"}, "to": {"type": "string"}}'),
    ('organization.member.joined', null, '{"role": {"type": "string"}}'),
    ('organization.member.role_changed', null, '{"role": {"type": "string"}, "was": {"type": "string"}}'),
    ('organization.member.removed', null, '{}'),
    ('billing.%', '{organization,subscription}', '{}')
  ) v (kinds, subjects, details) loop
    update private.event_kinds k
    set subjects = coalesce(v.subjects::text[], array[split_part(k.kind, '.', 2)]), details = v.details::jsonb
    where k.kind like v.kinds;
  end loop;
end $$;

create type private.event as (
  kind text,
  organization_id uuid,
  subject_type text,
  subject_id uuid,
  title text,
  message text,
  recipients uuid[],
  data jsonb,
  dedupe_key text,
  type "NotificationType",
  path text
);
comment on type private.event is 'Something that happened, and whom it concerns.';

create table private.published_events (
  kind text not null references private.event_kinds (kind) on delete cascade,
  dedupe_key text not null,
  organization_id uuid references public.organizations (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (kind, dedupe_key)
);
comment on table private.published_events is 'Events with a dedupe_key, so that each is published once; kept for 400 days.';
comment on column private.published_events.kind is 'The kind of the event.';
comment on column private.published_events.dedupe_key is 'What it was about: the task and its date, the refund, the dispute.';
comment on column private.published_events.organization_id is 'The organization of the event.';
create index published_events_organization_idx on private.published_events (organization_id);
create index published_events_created_at_idx on private.published_events (created_at);
