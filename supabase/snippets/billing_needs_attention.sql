-- What in billing needs a person?
select *
from public.billing_attention
order by since;
