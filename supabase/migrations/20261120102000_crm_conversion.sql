-- CRM conversion: a lead becomes a contact, and a deal, once.

-- SECURITY DEFINER: CONVERTED and converted_contact_id are not for clients to write.
create function private.convert_lead(lead_id uuid, deal_title text, deal_value numeric, deal_stage "DealStage")
returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  org uuid := private.current_user_org('MEMBER');
  lead public.leads;
  contact uuid := gen_random_uuid();
  deal uuid;
begin
  -- The row lock serializes simultaneous attempts: the later ones see the result of the first.
  select l.* into lead from public.leads l where l.id = convert_lead.lead_id and l.organization_id = org for update;
  if not found then
    perform private.refuse('lead', convert_lead.lead_id);
  end if;
  if lead.status = 'CONVERTED' then
    raise exception 'This lead was converted already' using
      errcode = 'PT409', detail = format('It became contact %s.', coalesce(lead.converted_contact_id::text, 'that was deleted')),
      hint = 'Continue with its contact.';
  end if;
  insert into public.contacts (
    id, organization_id, assigned_to_id, name, email, phone, company, type, status, notes, tags, custom_fields,
    budget, property_types, cities, min_bedrooms, is_watching, last_contact_at
  ) values (
    contact, org, lead.assigned_to_id, lead.name, lead.email, lead.phone, lead.company, 'CLIENT', 'ACTIVE', lead.notes,
    lead.tags, lead.custom_fields, lead.budget, lead.property_types, lead.cities, lead.min_bedrooms, lead.is_watching,
    lead.last_contact_at
  );
  if num_nonnulls(deal_title, deal_value) > 0 then
    insert into public.deals (organization_id, assigned_to_id, lead_id, contact_id, title, value, stage)
    values (
      org, lead.assigned_to_id, lead.id, contact, coalesce(deal_title, lead.name), coalesce(deal_value, lead.budget, 0),
      deal_stage
    ) returning id into deal;
  end if;
  update public.leads l set status = 'CONVERTED', converted_contact_id = contact where l.id = lead.id;
  perform private.record_change(
    org, 'lead', lead.id, 'converted', format('Lead %s converted', lead.name), lead_id => lead.id,
    contact_id => contact, deal_id => deal, severity => 'SUCCESS'
  );
  return jsonb_build_object('lead_id', lead.id, 'contact_id', contact, 'deal_id', deal);
end $$;
comment on function private.convert_lead(uuid, text, numeric, "DealStage") is 'Makes a contact, and a deal, of a lead.';

create function public.convert_lead(
  lead_id uuid, deal_title text default null, deal_value numeric default null, deal_stage "DealStage" default 'LEAD'
) returns jsonb language sql set search_path = ''
as 'select private.convert_lead(lead_id, deal_title, deal_value, deal_stage)';
comment on function public.convert_lead(uuid, text, numeric, "DealStage") is
  'Makes a client of a lead, once; with deal_title or deal_value also a deal. Value: the lead''s budget unless given.';

grant execute on function private.convert_lead(uuid, text, numeric, "DealStage"),
  public.convert_lead(uuid, text, numeric, "DealStage")
  to authenticated, service_role;
