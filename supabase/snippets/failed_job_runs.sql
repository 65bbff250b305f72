-- Which jobs failed in the last day, and why?
select h.job, h.started_at, h.took, h.error
from private.job_history h
where h.outcome = 'FAILED' and h.started_at > now() - interval '1 day'
order by h.started_at desc;
