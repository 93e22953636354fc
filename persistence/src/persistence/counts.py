"""What this process counts of its own work; `metrics` tells the state of the whole system beside it."""

from shared.metrics import FAST_SECONDS, Counter, Histogram

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)

BATCH_SECONDS = Histogram(
    "parley_persistence_batch_seconds",
    "The transaction that writes a batch back, with its commit.",
    bounds=FAST_SECONDS,
)
BATCH_MESSAGES = Histogram("parley_persistence_batch_messages", "Messages of one batch.", bounds=_SIZES)
BATCH_CHUNKS = Histogram("parley_persistence_batch_chunks", "Chunks of one batch.", bounds=_SIZES)
BATCH_FAILURES = Counter("parley_persistence_batch_failures", "Batches that Postgres did not take.")
CHUNK_SECONDS = Histogram(
    "parley_persistence_chunk_seconds",
    "From the sending of a message of chunks to its commit, by the clocks of two machines.",
    bounds=FAST_SECONDS,
)
CHUNKS = Counter(
    "parley_persistence_chunks",
    "Chunks, by where they stand to their job's journal.",
    ["place"],
    known=[("fenced",), ("ahead",), ("unsound",)],
)
EVENTS = Counter("parley_persistence_events", "Events that were stored.")
JOBS_ENDED = Counter("parley_persistence_jobs_ended", "Jobs that ended.", ["status"])
RETRIES = Counter(
    "parley_persistence_retries", "Jobs that are to be run again, by why.", ["cause"], known=[("lease_expired",)]
)
RESUMES = Counter("parley_persistence_resumes", "Later attempts that asked where to go on.", ["outcome"])
REPAIRS = Counter(
    "parley_persistence_repairs", "What maintenance found and mended.", ["repair"], known=[("published_again",)]
)
DEAD_LETTERS = Counter(
    "parley_persistence_dead_letters", "Messages that were thrown out and are recorded now.", ["queue"]
)
ANNOUNCEMENTS_DROPPED = Counter(
    "parley_persistence_announcements_dropped", "Batches of live events that found no room."
)
WEBHOOK_ATTEMPTS = Counter("parley_persistence_webhook_attempts", "Attempts to deliver a webhook.", ["outcome"])
MESSAGES_INDEXED = Counter("parley_persistence_messages_indexed", "Messages whose words got into the search's index.")
