-- Every column that a client may write is bounded by its type. A chapter after this one that grants a column calls this again.

select private.bound_client_columns();

-- The named tables are written by operations, from what a client sends. Call this again after a check has changed; before a
-- column is dropped, drop the trigger z_explain_refusal of its table.
select private.explain_refusals('{private.capture_tokens,public.organization_invitations,public.custom_agent_orders}'::regclass[]);
