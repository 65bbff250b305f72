-- CRM lost reasons: the list from which an organization chooses why a deal was lost.

create table public.lost_reasons (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  name text not null constraint "reason is 1 to 100 characters" check (length(trim(name)) between 1 and 100),
  position integer not null default 0,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id),
  constraint "reason is unique in the organization" unique (organization_id, name)
);
comment on table public.lost_reasons is 'Reasons for losing a deal, such as "Price" or "Bought elsewhere".';
comment on column public.lost_reasons.organization_id is 'The organization; by default the one the request acts in.';
comment on column public.lost_reasons.name is 'The reason, as it is shown and reported.';
comment on column public.lost_reasons.position is 'Place in the list.';
comment on column public.lost_reasons.is_active is 'False: no longer offered; deals keep it.';
create index lost_reasons_organization_idx on public.lost_reasons (organization_id, created_at desc);
create trigger touch before update on public.lost_reasons for each row execute function private.touch_updated_at();

alter table public.lost_reasons enable row level security;
create policy "members see lost reasons" on public.lost_reasons for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "admins add lost reasons" on public.lost_reasons for insert to authenticated
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins change lost reasons" on public.lost_reasons for update to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')))
  with check (organization_id = (select private.current_user_org('ADMIN')));
create policy "admins delete lost reasons" on public.lost_reasons for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete, insert (organization_id, name, position, is_active), update (name, position, is_active)
  on public.lost_reasons to authenticated;
grant all on public.lost_reasons to service_role;
