-- Which organizations have the most data?
select o.slug, o.subscription_tier,
  (select count(*) from public.leads l where l.organization_id = o.id) as leads,
  (select count(*) from public.contacts c where c.organization_id = o.id) as contacts,
  (select count(*) from public.deals d where d.organization_id = o.id) as deals,
  private.used_room(o.id, 'storage_bytes') as storage_bytes
from public.organizations o
order by leads desc limit 20;
