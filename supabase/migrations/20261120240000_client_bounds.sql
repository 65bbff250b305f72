-- Every column that a client may write is bounded by its type. A chapter after this one that grants a column calls this again.

select private.bound_client_columns();

-- Before a column that a check of one of these tables has is changed or dropped, drop their triggers word_refusal; then call
-- this again.
select private.word_refusals('{private.capture_tokens,public.organizations,public.organization_invitations,public.custom_agent_orders}'::regclass[]);
