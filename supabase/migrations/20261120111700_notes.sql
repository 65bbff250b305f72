-- Notes: what members write about a record, with mentions of one another. A note goes with its record, and comes back with it.

create table public.notes (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  author_id uuid references public.users (id) on delete set null,
  body text not null constraint "body is 1 to 20000 characters" check (length(body) between 1 and 20000),
  mentions uuid[] not null default '{}',
  is_pinned boolean not null default false,
  lead_id uuid,
  contact_id uuid,
  company_id uuid,
  deal_id uuid,
  listing_id uuid,
  customer_id uuid,
  project_id uuid,
  task_id uuid,
  appointment_id uuid,
  order_id uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  foreign key (organization_id, lead_id) references public.leads (organization_id, id) on delete cascade,
  foreign key (organization_id, contact_id) references public.contacts (organization_id, id) on delete cascade,
  foreign key (organization_id, company_id) references public.companies (organization_id, id) on delete cascade,
  foreign key (organization_id, deal_id) references public.deals (organization_id, id) on delete cascade,
  foreign key (organization_id, listing_id) references public.listings (organization_id, id) on delete cascade,
  foreign key (organization_id, customer_id) references public.customers (organization_id, id) on delete cascade,
  foreign key (organization_id, project_id) references public.projects (organization_id, id) on delete cascade,
  foreign key (organization_id, task_id) references public.tasks (organization_id, id) on delete cascade,
  foreign key (organization_id, appointment_id) references public.appointments (organization_id, id) on delete cascade,
  foreign key (organization_id, order_id) references public.custom_agent_orders (organization_id, id) on delete cascade,
  constraint "a note is about at least one record" check (
    num_nonnulls(lead_id, contact_id, company_id, deal_id, listing_id, customer_id,
      project_id, task_id, appointment_id, order_id) > 0
  )
);
comment on table public.notes is 'Notes about records. @[Name](user id) in the body mentions a member, who is notified.';
comment on column public.notes.organization_id is 'The organization; by default the one the request acts in.';
comment on column public.notes.author_id is 'Who wrote it; only the author changes it. Null after the account was deleted.';
comment on column public.notes.body is 'The text, Markdown; mentions are @[Name](user id).';
comment on column public.notes.mentions is 'The members mentioned; taken from the body by the database.';
comment on column public.notes.is_pinned is 'Shown above the others.';
comment on column public.notes.lead_id is 'The lead it is about.';
comment on column public.notes.contact_id is 'The contact it is about.';
comment on column public.notes.company_id is 'The company it is about.';
comment on column public.notes.deal_id is 'The deal it is about.';
comment on column public.notes.listing_id is 'The listing it is about.';
comment on column public.notes.customer_id is 'The customer it is about.';
comment on column public.notes.project_id is 'The project it is about.';
comment on column public.notes.task_id is 'The task it is about.';
comment on column public.notes.appointment_id is 'The appointment it is about.';
comment on column public.notes.order_id is 'The agent order it is about.';
create index notes_organization_idx on public.notes (organization_id, created_at desc);
create index notes_author_idx on public.notes (author_id);
create index notes_lead_idx on public.notes (organization_id, lead_id, created_at desc) where lead_id is not null;
create index notes_contact_idx on public.notes (organization_id, contact_id, created_at desc) where contact_id is not null;
create index notes_company_idx on public.notes (organization_id, company_id, created_at desc) where company_id is not null;
create index notes_deal_idx on public.notes (organization_id, deal_id, created_at desc) where deal_id is not null;
create index notes_listing_idx on public.notes (organization_id, listing_id, created_at desc) where listing_id is not null;
create index notes_customer_idx on public.notes (organization_id, customer_id, created_at desc) where customer_id is not null;
create index notes_project_idx on public.notes (organization_id, project_id, created_at desc) where project_id is not null;
create index notes_task_idx on public.notes (organization_id, task_id, created_at desc) where task_id is not null;
create index notes_appointment_idx on public.notes (organization_id, appointment_id, created_at desc) where appointment_id is not null;
create index notes_order_idx on public.notes (organization_id, order_id, created_at desc) where order_id is not null;
create trigger touch before update on public.notes for each row execute function private.touch_updated_at();
create trigger stamp_author before insert on public.notes for each row execute function private.stamp_author('author_id');
select private.record_changes('public.notes');
create trigger trash before delete on public.notes for each row execute function private.move_to_trash();

create function private.find_mentions() returns trigger language plpgsql set search_path = '' as $$
begin
  -- Triggers run before the policy: no work for a writer whom it refuses.
  if row_security_active(tg_relid) and new.organization_id is distinct from private.current_user_org('MEMBER') then
    return new;
  end if;
  new.mentions := array(
    select distinct m.user_id
    from regexp_matches(new.body, '@\[[^\]\n]{1,255}\]\(([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\)', 'g') found_mention
    join public.organization_members m
      on m.user_id = found_mention[1]::uuid and m.organization_id = new.organization_id
    order by 1
  );
  return new;
end $$;
comment on function private.find_mentions() is 'Keeps mentions: the members of the organization that the body names.';
create trigger find_mentions before insert or update of body on public.notes
  for each row execute function private.find_mentions();

create function private.notify_mentioned() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  newly uuid[] := array(
    select m from unnest(new.mentions) m
    where m is distinct from new.author_id and (tg_op = 'INSERT' or m <> all (old.mentions))
  );
begin
  if cardinality(newly) > 0 then
    perform private.publish_event(
      'work.note.mentioned', new.organization_id, 'note', new.id,
      concat(coalesce((select left(u.name, 80) from public.users u where u.id = new.author_id), 'A member'), ' mentioned you'),
      regexp_replace(new.body, '@\[([^\]\n]{1,255})\]\([0-9a-f-]{36}\)', '@\1', 'g'), newly,
      path => coalesce('/leads/' || new.lead_id, '/contacts/' || new.contact_id, '/companies/' || new.company_id,
        '/deals/' || new.deal_id, '/listings/' || new.listing_id, '/customers/' || new.customer_id, '/projects/' || new.project_id,
        '/tasks/' || new.task_id, '/appointments/' || new.appointment_id, '/orders/' || new.order_id)
    );
  end if;
  return null;
end $$;
comment on function private.notify_mentioned() is 'Notifies members who are mentioned for the first time in a note.';
create trigger notify_mentioned after insert or update of mentions, body on public.notes
  for each row when (coalesce(current_setting('strive.history_action', true), '') <> 'restored')
  execute function private.notify_mentioned();

grant execute on function private.find_mentions() to authenticated, service_role;

-- Policies ------------------------------------------------------------------------------------------------------------

alter table public.notes enable row level security;
create policy "members see notes" on public.notes for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members write notes" on public.notes for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "authors change their notes" on public.notes for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')) and author_id = (select auth.uid()))
  with check (organization_id = (select private.current_user_org('MEMBER')) and author_id = (select auth.uid()));
create policy "authors and admins delete notes" on public.notes for delete to authenticated
  using (
    organization_id = (select private.current_user_org('MEMBER'))
    and (author_id = (select auth.uid()) or organization_id = (select private.current_user_org('ADMIN')))
  );
grant select, delete, update (body, is_pinned),
  insert (organization_id, body, is_pinned, lead_id, contact_id, company_id, deal_id, listing_id,
    customer_id, project_id, task_id, appointment_id, order_id)
  on public.notes to authenticated;
grant all on public.notes to service_role;
