-- Bring back a deleted record
-- As the server: for a member the function restore_from_trash() does it.
select t.id, t.kind, t.title, t.deleted_at from public.trash t where t.title ilike '%' || 'Ada' || '%' limit 20;
