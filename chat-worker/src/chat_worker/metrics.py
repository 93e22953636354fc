"""What a worker counts of its jobs. Tools and models count where they are called."""

from shared.metrics import SLOW_SECONDS, Counter, Gauge, Histogram

SLOTS = Gauge("parley_worker_slots", "Jobs that the process takes at once.")
RUNNING = Gauge("parley_worker_jobs_running", "Jobs that it has.")
DUPLICATES = Counter("parley_worker_duplicate_jobs", "Deliveries of jobs that were not to be run; they are dropped.")
CLAIM_WAIT_SECONDS = Histogram(
    "parley_worker_claim_wait_seconds",
    "From a job's acceptance to its first attempt, by the clocks of two machines.",
    bounds=SLOW_SECONDS,
)
ATTEMPTS = Counter("parley_worker_attempts", "Attempts that are over, by how and why.", ["outcome", "cause"])
ATTEMPT_SECONDS = Histogram(
    "parley_worker_attempt_seconds", "From the claim to the end of an attempt.", bounds=SLOW_SECONDS
)
OUTGOING_BYTES = Gauge("parley_worker_outgoing_bytes", "Events that wait for the broker's confirm.")
MESSAGE_EVENTS = Histogram(
    "parley_worker_message_events", "Events of one message to the journal.", bounds=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
LEASE_FAILURES = Counter(
    "parley_worker_lease_renewal_failures", "Renewals of leases that Postgres did not take in time."
)
