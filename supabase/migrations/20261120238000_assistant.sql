-- The assistant: what the function ask-assistant does in the database. A conversation belongs to one person; its tools are
-- those of the chapter assistant_tools, as far as ai_tools lets the plan of the organization use them.

-- A tool that is not here, or not active, is closed. Written by no admin, so not audited.
alter table public.ai_tools disable trigger audit_change;
insert into public.ai_tools (name, description, tool_type, required_tier) values
  ('search_crm', 'Search the CRM', 'ASSISTANT', 'FREE'),
  ('list_records', 'List records', 'ASSISTANT', 'FREE'),
  ('get_record', 'Read a record', 'ASSISTANT', 'FREE'),
  ('pipeline_report', 'Report on the pipeline', 'ASSISTANT', 'FREE'),
  ('agenda', 'Read the agenda', 'ASSISTANT', 'FREE'),
  ('create_record', 'Create a record', 'ASSISTANT', 'STARTER'),
  ('update_record', 'Change a record', 'ASSISTANT', 'STARTER'),
  ('record_activity', 'Record an activity', 'ASSISTANT', 'STARTER'),
  ('order_agent', 'Order an AI agent', 'ASSISTANT', 'GROWTH');
alter table public.ai_tools enable trigger audit_change;

create function private.begin_assistant(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  org constant uuid := private.require_org('MEMBER');
  me constant uuid := private.current_user_id();
  tier constant public."SubscriptionTier" := (select o.subscription_tier from public.organizations o where o.id = org);
  allowed constant bigint := private.plan_limit(org, 'ai_tokens');
  used constant bigint := private.used_tokens(org);
  conversation public.ai_conversations;
begin
  if used >= allowed then
    perform private.refuse_room(org, 'ai_tokens', allowed, used);
  end if;
  if request ->> 'conversation_id' is null then
    insert into public.ai_conversations (organization_id, user_id, title, ai_model)
    values (org, me, left(request ->> 'message', 100), request ->> 'model') returning * into conversation;
  else
    select c.* into conversation from public.ai_conversations c
    where c.id = (request ->> 'conversation_id')::uuid and c.organization_id = org and c.user_id = me;
    if conversation.id is null then
      raise exception 'There is no such conversation of yours' using
        errcode = 'PT404', hint = 'Omit conversation_id to start one.';
    end if;
  end if;
  return jsonb_build_object(
    'conversation_id', conversation.id,
    'messages', case jsonb_typeof(conversation.conversation_data) when 'array' then conversation.conversation_data else '[]' end,
    'tools', (
      select coalesce(jsonb_agg(t.name order by t.name), '[]') from public.ai_tools t
      where t.tool_type = 'ASSISTANT' and t.is_active and t.required_tier <= tier
    )
  );
end $$;
comment on function private.begin_assistant(jsonb) is
  'Opens a conversation of the caller, or starts one: its messages and the tools of the plan. PT402 beyond the tokens of the plan.';

create function private.store_assistant(request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  tokens constant integer := greatest((request ->> 'tokens')::integer, 0);
  changed public.ai_conversations;
begin
  update public.ai_conversations c
  set conversation_data = coalesce(request -> 'messages', c.conversation_data), usage_tokens = c.usage_tokens + tokens
  where c.id = (request ->> 'conversation_id')::uuid and c.user_id = auth.uid() returning c.* into changed;
  if changed.id is not null and tokens > 0 then
    perform private.count_usage(changed.organization_id, changed.user_id, null, 'AI_TOKENS', request ->> 'model', tokens);
  end if;
  return jsonb_build_object('tokens', tokens);
end $$;
comment on function private.store_assistant(jsonb) is 'Keeps the messages of the caller''s conversation and counts its tokens.';
grant execute on function private.begin_assistant(jsonb), private.store_assistant(jsonb) to strive_functions;
