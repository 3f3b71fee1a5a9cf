"""The janitor of a farm: lanes, liveness, failover, cleaning, enrolment, status. It never opens a task's payload."""
