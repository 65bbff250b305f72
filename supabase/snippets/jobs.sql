-- Do the jobs run?
select *
from private.job_overview;
