-- CRM deals: business in the pipeline. private.deal_stages says where a deal may move; a trigger binds every writer to it.

create type "DealStage" as enum (
  'LEAD', 'QUALIFIED', 'PROPOSAL', 'NEGOTIATION', 'CLOSING', 'CLOSED_WON', 'CLOSED_LOST'
);
comment on type "DealStage" is 'Stage of the pipeline.';
create type "DealStatus" as enum ('ACTIVE', 'WON', 'LOST', 'ABANDONED');
comment on type "DealStatus" is 'Outcome of a deal; follows its stage.';

-- Stages --------------------------------------------------------------------------------------------------------------

create table private.deal_stages (
  stage "DealStage" primary key,
  status "DealStatus" not null,
  probability integer not null,
  moves_to "DealStage"[] not null
);
comment on table private.deal_stages is 'What each stage means and where a deal may go from it.';
comment on column private.deal_stages.probability is 'Of winning, in percent, unless given by hand.';
-- A deal moves forward freely, back one step only, and to closed from any stage. Only reopen_deal() moves it out of a
-- closed stage.
insert into private.deal_stages (stage, status, probability, moves_to) values
  ('LEAD', 'ACTIVE', 10, '{QUALIFIED,PROPOSAL,NEGOTIATION,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('QUALIFIED', 'ACTIVE', 25, '{LEAD,PROPOSAL,NEGOTIATION,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('PROPOSAL', 'ACTIVE', 50, '{QUALIFIED,NEGOTIATION,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('NEGOTIATION', 'ACTIVE', 75, '{PROPOSAL,CLOSING,CLOSED_WON,CLOSED_LOST}'),
  ('CLOSING', 'ACTIVE', 90, '{NEGOTIATION,CLOSED_WON,CLOSED_LOST}'),
  ('CLOSED_WON', 'WON', 100, '{}'),
  ('CLOSED_LOST', 'LOST', 0, '{}');
grant select on private.deal_stages to authenticated, service_role;

-- Deals ---------------------------------------------------------------------------------------------------------------

create table public.deals (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  assigned_to_id uuid,
  lead_id uuid,
  contact_id uuid,
  company_id uuid,
  listing_id uuid,
  title text not null constraint "deal title is 1 to 255 characters" check (length(title) between 1 and 255),
  description text,
  value numeric(12, 2) not null constraint "value is not negative" check (value >= 0),
  stage "DealStage" not null default 'LEAD',
  status "DealStatus" not null default 'ACTIVE',
  probability integer not null constraint "probability is 0 to 100" check (probability between 0 and 100),
  expected_close_date timestamptz,
  actual_close_date timestamptz,
  lost_reason_id uuid,
  lost_reason text,
  notes text,
  tags text[] not null default '{}',
  custom_fields jsonb constraint "custom_fields is an object" check (jsonb_typeof(custom_fields) = 'object'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "the status of a deal follows its stage" check (
    case stage when 'CLOSED_WON' then status = 'WON' when 'CLOSED_LOST' then status in ('LOST', 'ABANDONED')
      else status = 'ACTIVE' end
  ),
  constraint "a won deal has probability 100, a lost one 0" check (
    case stage when 'CLOSED_WON' then probability = 100 when 'CLOSED_LOST' then probability = 0 else true end
  ),
  constraint "a deal has actual_close_date when it is closed" check ((status = 'ACTIVE') = (actual_close_date is null)),
  constraint "a lost deal has lost_reason" check (stage <> 'CLOSED_LOST' or coalesce(trim(lost_reason), '') <> ''),
  constraint "assigned_to_id is a member of the organization" foreign key (assigned_to_id, organization_id)
    references public.organization_members (user_id, organization_id) on delete set null (assigned_to_id),
  foreign key (organization_id, lead_id) references public.leads (organization_id, id) on delete set null (lead_id),
  foreign key (organization_id, contact_id)
    references public.contacts (organization_id, id) on delete set null (contact_id),
  foreign key (organization_id, lost_reason_id)
    references public.lost_reasons (organization_id, id) on delete set null (lost_reason_id),
  foreign key (organization_id, company_id)
    references public.companies (organization_id, id) on delete set null (company_id),
  foreign key (organization_id, listing_id)
    references public.listings (organization_id, id) on delete set null (listing_id)
);
comment on table public.deals is 'Business in the pipeline; moved by move_deal(), close_deal(), reopen_deal() or by writing stage.';
comment on column public.deals.value is 'In the organization''s currency.';
comment on column public.deals.status is 'Follows stage; a lost deal may also be ABANDONED.';
comment on column public.deals.probability is 'Of winning, in percent; follows stage unless given.';
comment on column public.deals.lost_reason_id is 'The reason from the list of the organization; follows lost_reason, and lost_reason follows it.';
comment on column public.deals.lost_reason is 'Why it was lost; CLOSED_LOST asks for it.';
create index deals_organization_idx on public.deals (organization_id, created_at desc);
-- What the pipeline report sums is in the index.
create index deals_organization_stage_idx on public.deals (organization_id, stage) include (value, probability, assigned_to_id);
create index deals_assigned_to_idx on public.deals (assigned_to_id, organization_id);
create index deals_lead_idx on public.deals (organization_id, lead_id);
create index deals_contact_idx on public.deals (organization_id, contact_id);
create index deals_lost_reason_idx on public.deals (organization_id, lost_reason_id) where lost_reason_id is not null;
create index deals_company_idx on public.deals (organization_id, company_id);
create index deals_listing_idx on public.deals (organization_id, listing_id);
create index deals_due_idx on public.deals (organization_id, expected_close_date) where status = 'ACTIVE';
create index deals_stage_idx on public.deals (stage);
create index deals_status_idx on public.deals (status);
create index deals_expected_close_date_idx on public.deals (organization_id, expected_close_date);
create index deals_search_idx on public.deals using gin (
  organization_id, private.search_terms(organization_id, null, title)
) with (gin_pending_list_limit = 512);
create index deals_created_at_idx on public.deals using brin (created_at);
create trigger touch before update on public.deals for each row execute function private.touch_updated_at();
select private.record_changes('public.deals');
create trigger trash before delete on public.deals for each row execute function private.move_to_trash();

-- Comparing enums is not leakproof, so under a policy `status = …` is no index condition. A partial index needs no
-- comparison, because its predicate names the value. Together these indexes are as large as one.
create index deals_stage_lead_idx
  on public.deals (organization_id, created_at desc) where stage = 'LEAD';
create index deals_stage_qualified_idx
  on public.deals (organization_id, created_at desc) where stage = 'QUALIFIED';
create index deals_stage_proposal_idx
  on public.deals (organization_id, created_at desc) where stage = 'PROPOSAL';
create index deals_stage_negotiation_idx
  on public.deals (organization_id, created_at desc) where stage = 'NEGOTIATION';
create index deals_stage_closing_idx
  on public.deals (organization_id, created_at desc) where stage = 'CLOSING';
create index deals_stage_closed_won_idx
  on public.deals (organization_id, created_at desc) where stage = 'CLOSED_WON';
create index deals_stage_closed_lost_idx
  on public.deals (organization_id, created_at desc) where stage = 'CLOSED_LOST';
create index deals_status_active_idx
  on public.deals (organization_id, created_at desc) where status = 'ACTIVE';
create index deals_status_won_idx
  on public.deals (organization_id, created_at desc) where status = 'WON';
create index deals_status_lost_idx
  on public.deals (organization_id, created_at desc) where status = 'LOST';
create index deals_status_abandoned_idx
  on public.deals (organization_id, created_at desc) where status = 'ABANDONED';

-- Moves ---------------------------------------------------------------------------------------------------------------

create function private.follow_stage() returns trigger language plpgsql set search_path = '' as $$
declare
  here private.deal_stages;
  goal private.deal_stages;
  moved boolean := tg_op = 'INSERT' or new.stage <> old.stage;
  closed boolean;
  -- The status if the caller did not write it.
  unwritten public."DealStatus" := case when tg_op = 'INSERT' then 'ACTIVE' when moved then old.status end;
begin
  select s.* into goal from private.deal_stages s where s.stage = new.stage;
  closed := goal.status <> 'ACTIVE';
  if tg_op = 'UPDATE' and moved then
    select s.* into here from private.deal_stages s where s.stage = old.stage;
    if here.status <> 'ACTIVE' and (closed or row_security_active(tg_relid)) then
      raise exception 'A closed deal cannot move' using
        errcode = 'PT409', detail = format('It is %s.', old.stage), hint = 'Call reopen_deal first.';
    elsif here.status = 'ACTIVE' and new.stage <> all (here.moves_to) then
      raise exception 'A deal cannot go from % to %', old.stage, new.stage using
        errcode = 'PT409', detail = format('From %s it may go to %s.', old.stage, array_to_string(here.moves_to, ', '));
    end if;
  end if;
  if new.status is distinct from unwritten and new.status <> goal.status
    and not (goal.status = 'LOST' and new.status = 'ABANDONED') then
    raise exception 'The status of a deal follows its stage' using
      errcode = 'PT422', detail = format('%s cannot be %s.', new.stage, new.status),
      hint = 'Write stage, or call move_deal or close_deal.';
  end if;
  if new.stage = 'CLOSED_LOST' and new.lost_reason_id is not null
    and (tg_op = 'INSERT' or new.lost_reason_id is distinct from old.lost_reason_id or new.lost_reason is null) then
    select r.name into new.lost_reason from public.lost_reasons r
    where r.organization_id = new.organization_id and r.id = new.lost_reason_id;
  elsif new.stage = 'CLOSED_LOST' and (tg_op = 'INSERT' or new.lost_reason is distinct from old.lost_reason) then
    new.lost_reason_id := (
      select r.id from public.lost_reasons r
      where r.organization_id = new.organization_id and lower(r.name) = lower(trim(new.lost_reason)) limit 1
    );
  end if;
  if new.stage = 'CLOSED_LOST' and coalesce(trim(new.lost_reason), '') = '' then
    raise exception 'A lost deal needs a reason' using errcode = 'PT422', hint = 'Send lost_reason as well.';
  end if;
  if not moved then
    return new;
  end if;
  if not (closed and new.status = 'ABANDONED') then
    new.status := goal.status;
  end if;
  if closed or new.probability is null or (tg_op = 'UPDATE' and new.probability = old.probability) then
    new.probability := goal.probability;
  end if;
  if closed then
    new.actual_close_date := coalesce(new.actual_close_date, now());
  elsif tg_op = 'UPDATE' and here.status <> 'ACTIVE' then
    new.actual_close_date := null;
  end if;
  if new.stage <> 'CLOSED_LOST' then
    new.lost_reason := null;
    if tg_op = 'UPDATE' then -- a new deal keeps the id, so that its key is checked and not silently dropped
      new.lost_reason_id := null;
    end if;
  end if;
  return new;
end $$;
comment on function private.follow_stage() is
  'Lets deals make only the moves of deal_stages; status, probability and close date follow the stage.';
create trigger follow_stage before insert or update on public.deals
  for each row execute function private.follow_stage();

create function private.note_deal_move() returns trigger language plpgsql set search_path = '' as $$
declare
  action text := case
    when new.status <> 'ACTIVE' then lower(new.status::text)
    when old.status <> 'ACTIVE' then 'reopened'
    else 'moved' end;
begin
  perform private.record_change(
    new.organization_id, 'deal', new.id, action,
    format(case action when 'moved' then 'Deal moved from %2$s to %3$s' else 'Deal %1$s: from %2$s to %3$s' end,
      action, old.stage, new.stage),
    -- A reopened deal loses its reason; this note keeps it.
    coalesce(new.lost_reason, old.lost_reason), new.lead_id, new.contact_id, new.id, new.listing_id, new.assigned_to_id,
    case when new.status = 'WON' then 'SUCCESS' when new.status <> 'ACTIVE' then 'WARNING' else 'INFO' end::public."ActivitySeverity"
  );
  return null;
end $$;
comment on function private.note_deal_move() is 'Writes a NOTE for every move of a deal.';
create trigger note_move after update on public.deals
  for each row when (new.stage <> old.stage) execute function private.note_deal_move();

create function public.move_deal(
  deal_id uuid, stage "DealStage", probability integer default null, lost_reason text default null
) returns public.deals language plpgsql set search_path = '' as $$
declare
  deal public.deals;
begin
  update public.deals d set stage = move_deal.stage, lost_reason = coalesce(move_deal.lost_reason, d.lost_reason),
    probability = case when move_deal.stage >= 'CLOSED_WON' then coalesce(move_deal.probability, d.probability) else d.probability end
  where d.id = deal_id returning d.* into deal;
  if not found then
    perform private.refuse('deal', deal_id);
  end if;
  -- In a second statement: within one, an unchanged probability looks like one that was not given.
  if deal.status = 'ACTIVE' and deal.probability <> move_deal.probability then
    update public.deals d set probability = move_deal.probability where d.id = deal_id returning d.* into deal;
  end if;
  return deal;
end $$;
comment on function public.move_deal(uuid, "DealStage", integer, text) is
  'Moves a deal: forward freely, back one step, closed from anywhere. CLOSED_LOST needs lost_reason. The same rules '
  'bind an update of stage; this function also raises an error if there is nothing to move.';

create function public.close_deal(
  deal_id uuid, outcome "DealStatus", lost_reason text default null, closed_at timestamptz default null
) returns public.deals language plpgsql set search_path = '' as $$
declare
  deal public.deals;
begin
  if outcome is null or outcome = 'ACTIVE' then
    raise exception 'A deal is closed as WON, LOST or ABANDONED' using
      errcode = 'PT422', detail = format('Found %s.', coalesce(outcome::text, 'nothing'));
  end if;
  select d.* into deal from public.deals d where d.id = deal_id for no key update;
  if not found then
    perform private.refuse('deal', deal_id);
  end if;
  if deal.status <> 'ACTIVE' then
    raise exception 'This deal is closed already' using
      errcode = 'PT409', detail = format('It is %s.', deal.stage), hint = 'Call reopen_deal first.';
  end if;
  update public.deals d
  set stage = case outcome when 'WON' then 'CLOSED_WON' else 'CLOSED_LOST' end::public."DealStage", status = outcome,
    lost_reason = close_deal.lost_reason, actual_close_date = closed_at
  where d.id = deal_id returning d.* into deal;
  return deal;
end $$;
comment on function public.close_deal(uuid, "DealStatus", text, timestamptz) is
  'Closes a deal, now unless closed_at is given; LOST and ABANDONED need lost_reason.';

-- SECURITY DEFINER: no client may take a deal out of a closed stage otherwise.
create function private.reopen_deal(deal_id uuid, stage "DealStage") returns public.deals
language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org('MEMBER');
  deal public.deals;
begin
  select d.* into deal from public.deals d where d.id = reopen_deal.deal_id and d.organization_id = org for update;
  if not found then
    perform private.refuse('deal', reopen_deal.deal_id);
  end if;
  if deal.status = 'ACTIVE' then
    raise exception 'This deal is open' using errcode = 'PT409', detail = format('It is %s.', deal.stage);
  end if;
  if reopen_deal.stage is null or reopen_deal.stage in ('CLOSED_WON', 'CLOSED_LOST') then
    raise exception 'A deal is reopened into an open stage' using
      errcode = 'PT422', detail = format('Found %s.', coalesce(reopen_deal.stage::text, 'nothing'));
  end if;
  update public.deals d set stage = reopen_deal.stage where d.id = deal.id returning d.* into deal;
  return deal;
end $$;
comment on function private.reopen_deal(uuid, "DealStage") is 'Puts a closed deal back into the pipeline.';

create function public.reopen_deal(deal_id uuid, stage "DealStage" default 'NEGOTIATION') returns public.deals
language sql set search_path = '' as 'select * from private.reopen_deal(deal_id, stage)';
comment on function public.reopen_deal(uuid, "DealStage") is
  'Puts a closed deal back into the pipeline; its reason and close date are cleared, the NOTE of the move keeps the reason.';

grant execute on function private.follow_stage(), private.note_deal_move(), private.reopen_deal(uuid, "DealStage"),
  public.move_deal(uuid, "DealStage", integer, text), public.close_deal(uuid, "DealStatus", text, timestamptz),
  public.reopen_deal(uuid, "DealStage")
  to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.deals enable row level security;
create policy "members see deals" on public.deals for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members add deals" on public.deals for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members change deals" on public.deals for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete deals" on public.deals for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete,
  insert (
    id, organization_id, assigned_to_id, lead_id, contact_id, company_id, listing_id, title, description, value, stage, status,
    probability, expected_close_date, actual_close_date, lost_reason_id, lost_reason, notes, tags, custom_fields
  ),
  update (
    id, organization_id, assigned_to_id, lead_id, contact_id, company_id, listing_id, title, description, value, stage, status,
    probability, expected_close_date, actual_close_date, lost_reason_id, lost_reason, notes, tags, custom_fields
  )
  on public.deals to authenticated;
grant all on public.deals to service_role;
