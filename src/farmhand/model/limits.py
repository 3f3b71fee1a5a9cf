"""Every limit of Farmhand with its unit, default and reason. Nothing else in the code holds a bare number of this kind."""

from __future__ import annotations

from typing import Final

MB: Final = 1024 * 1024

# ---- connection: seconds and bytes
CONNECT_S: Final = (
    4.5  # a first connect answers or fails by then, and with the start of Python in 5 s: people wait no longer
)
REQUEST_S: Final = 5.0  # one request to the engine or the steward; both answer in milliseconds when they are well
REFUSALS_MAX: Final = (
    2  # of a credential, then it is believed: an engine that reads its users again refuses for a moment
)
RECONNECT_FIRST_S: Final = 0.05  # an engine restarts in 50 ms
RECONNECT_MAX_S: Final = 2.0  # the longest pause between tries; a farm that comes back is used at once
SERVER_TRY_S: Final = 2.0  # for one server of a cluster to answer; then the next one is tried
API_TRY_S: Final = 1.5  # for one try of a request to a cluster or to the steward: who had it may have died with it
GATHER_S: Final = 0.5  # for all servers of a cluster to answer one question; they do so in milliseconds
PING_INTERVAL_S: Final = 2.0  # with PINGS_OUT_MAX finds a half-open connection in 6 s without burdening the engine
PINGS_OUT_MAX: Final = 2
WRITE_BUFFER_BYTES: Final = 4 * MB  # above it bulk publishers wait; below it a chunk is always under way
JOIN_BYTES_MAX: Final = 64 * 1024  # below it one joined write is cheaper than many pieces
PAYLOAD_BYTES_MAX: Final = 8 * MB  # the engine's max_payload

# ---- stored publishes
STORE_RETRY_S: Final = 1.0  # an unanswered publish is sent again with the same id
STORE_DEADLINE_S: Final = (
    90.0  # then the publish fails; shorter than the dedupe window, so a repeat is never stored twice
)
DEDUPE_WINDOW_S: Final = 120.0
STORE_STUCK_S: Final = 3.0  # a connected engine that answers no publish for so long has a full disk
STORE_IN_FLIGHT_MAX: Final = 1024  # unanswered publishes of one connection

# ---- batches and windows
BATCH_SECONDS: Final = 0.020  # work in one message: 20 ms hides a round trip of 0.5 ms and delays nobody
BATCH_TASKS_MAX: Final = 128  # 95k tasks/s in the prototype; more gains nothing and delays the first result
BATCH_BYTES_MAX: Final = 256 * 1024  # argument bytes in one message
LONG_TASK_S: Final = 0.050  # a task expected to take longer travels alone
SPLIT_SECONDS: Final = 0.001  # a batch is cut into pieces for idle slots only when a piece is worth at least this much
BATCHES_PER_SLOT: Final = 3  # published per slot: one running, one prefetched, one on its way
WINDOW_MIN: Final = 2  # batches, before the steward has said how many slots there are
GROUPS_MAX: Final = 4096  # functions with options whose durations are remembered
INLINE_BYTES_MAX: Final = 128 * 1024  # an argument or result larger than this travels as a blob
INPUT_BYTES_INLINE_MAX: Final = 1 * MB  # small values of inputs in one message; a call may join thousands of them
SHARED_BYTES_MIN: Final = 256 * 1024  # memory of an argument from here on is stored once for all calls that have it
SHARED_KNOWN_MAX: Final = 1024  # such memories that a client remembers before it forgets those that are gone
SHARED_KEPT_S: Final = 1.0  # memory that a call had is kept so long for the next: a loop of short calls stores it once
SHARED_KEPT_BYTES: Final = 256 * MB  # of such memory that no call needs
INPUT_CACHE_BYTES: Final = 2048 * MB  # values of inputs that a node keeps for further calls, beyond those in use
EXCEPTION_BYTES_MAX: Final = (
    6 * MB
)  # a larger one is reported in words; with what it is sent with it must fit a message
DURATION_WEIGHT: Final = 0.3  # of the newest batch in the learned mean

# ---- attempts
DEATHS_MAX: Final = 3  # a task under which so many slots, nodes or agents died is Crashed
LOSSES_MAX: Final = 20  # losses without proof that the task was running; far above what maintenance causes
RETRY_DELAY_S: Final = 1.0
RETRY_DELAY_MAX_S: Final = 60.0
OVERDUE_S: Final = 0.1  # a batch that runs longer than this gives back what it has not started

# ---- leases and liveness: seconds
ACK_WAIT_S: Final = 10.0  # backstop that works without a steward: the engine hands an unrenewed message out again
RENEW_S: Final = 3.0  # the agent renews what it holds, a third of ACK_WAIT_S
BEAT_S: Final = 0.5  # a node's and a session's heartbeat
NODE_SILENCE_S: Final = 3.0  # six missed heartbeats: frozen or unplugged
NODE_GONE_S: Final = 0.3  # after a disconnect event: time for a short drop to heal
STOPPED_S: Final = 1.5  # whose timer is so late stood still: its machine slept, or somebody stopped it
ANNOUNCE_S: Final = (
    5.0  # the table of lanes, and that a task still runs, are said again so often: it may have been missed
)
LEASE_S: Final = (
    4.0  # a cluster's acting steward that cannot renew its lease for so long stops; a frozen one is replaced after it
)
LEASE_RENEW_S: Final = 1.0  # and by so much others wait longer
SESSION_SILENCE_S: Final = (
    30.0  # user code in a client can hold the interpreter for long; its socket closing is the real sign
)
SESSION_GONE_S: Final = 2.0  # after a disconnect event
STARTED_NOTICE_S: Final = 0.002  # tasks shorter than this never show as running
GRACE_S: Final = 10.0  # a leaving node finishes what runs
STOP_RETRY_S: Final = 1.0  # an order to stop a running task is repeated until its end is reported
STOP_TRIES: Final = 5  # for an attempt that was given up: most times its node is gone and nobody will ever answer
STOPS_MAX: Final = 10_000  # orders that are repeated; beyond it the oldest are given up
WATCHDOG_S: Final = 5.0  # a session asks whether what it waits for is still somewhere
EMBEDDED_START_S: Final = 20.0  # an embedded farm is ready in well under a second; a loaded machine gets this long

SIGNAL_S: Final = 0.5  # the longest that Ctrl-C goes unnoticed when it comes just before a thread begins to wait

# ---- slots
SLOT_RESTART_S: Final = 0.1  # first pause after a slot that died without having run a task
SLOT_RESTART_MAX_S: Final = 5.0
PREFETCH_PER_SLOT: Final = 1
SURPLUS_S: Final = 0.05  # work beyond the prefetch is kept so long in case a slot frees, then handed back
LONG_RUN_S: Final = 1.0  # a slot that is busy for longer prefetches nothing: its next message could wait for an hour
LOST_PULL_S: Final = 2.0  # beyond its time an unanswered pull died with the server that had it
CLUSTER_PULL_S: Final = 5.0  # a long-poll pull in a cluster: so long a slot idles at most when one dies with its server
FREE_PULL_S: Final = 30.0  # a long-poll pull; the engine forgets it by then and the agent asks again
TAIL_LINES: Final = 50  # of a task's output kept for an error
TAIL_BYTES: Final = 8192
OUTPUT_LINES_PER_S: Final = 1000  # per slot, to the submitter's terminal; the rest is counted
OUTPUT_LINE_BYTES: Final = 8192
OUTPUT_UNSTORED_BYTES_MAX: Final = 8 * MB  # printed while the engine is away; lines beyond it are counted
GIVEN_UP_MAX: Final = 8  # threads of tasks that a node without processes gave up: with more that still run, it ends
MEMORY_CHECK_S: Final = 0.2  # how often a task with a memory need is measured

# ---- environments
ENVIRONMENTS_MAX: Final = 20  # kept on a machine; most people have a handful
ENVIRONMENTS_BYTES_MAX: Final = 30 * 1024 * MB  # of all of them: a few with the largest libraries
ENVIRONMENT_AGE_S: Final = 30 * 24 * 3600.0  # one that was not used for so long is removed
ENVIRONMENT_BUILD_S: Final = 1800.0  # what compiles for half an hour hangs
ENVIRONMENT_FAILED_S: Final = 10.0  # a failed build is not tried again for so long: a thousand tasks fail by one try
ENVIRONMENT_WORDS_BYTES: Final = 4096  # of uv's words in an error; its reason stands at the end
ENVIRONMENT_TURN_S: Final = 0.5  # a task waits so long at most for others that need no change of a slot's environment
REQUIREMENTS_BYTES_MAX: Final = 1 * MB  # of one environment, with hashes; a longer list is no list of requirements

# ---- tasks that submit
NESTED_DEPTH_MAX: Final = 100  # tasks above one another; each waiting one is a process of some 26 MB
NESTED_CHILDREN_MAX: Final = (
    20_000  # of one task, without an outcome: `map` keeps MAP_AHEAD, and a loop gone wild ends soon
)
NESTED_SESSION_MAX: Final = 100_000  # the same of all tasks of a session: 1 kB each in the client or the steward
NESTED_BYTES_AHEAD: Final = 16 * MB  # submitted by one task and not yet taken by its session; then `submit` waits
NESTED_ANSWER_BYTES: Final = 1 * MB  # of outcomes, or of submitted tasks, in one message; one alone may be larger
NESTED_REPEAT_S: Final = 2.0  # what a session has not answered is said again
NESTED_ALONE_S: Final = 5.0  # nobody listens to the session's subject: its client is gone; a reconnect takes 2 s
NESTED_SILENCE_S: Final = 35.0  # somebody listens and does not answer: longer than SESSION_SILENCE_S
LEND_AFTER_S: Final = 0.005  # a shorter wait is not worth two messages and perhaps a process
IDLE_LOOK_S: Final = 0.05  # how often it is looked whether a task that waits in a way of its own computes
IDLE_SHARE: Final = 0.2  # of a core, below which it does not
SPARES_MAX: Final = 1024  # tasks of a node that wait at the same time, and so spare processes: 30 GB of them
SPARE_KEEP_S: Final = 10.0  # an idle spare process is kept so long: a start costs 0.1 s
SHALLOW_KEEP_S: Final = 0.25  # work that may not start before deeper work is kept so long, then handed back

# ---- blobs
CHUNK_BYTES: Final = 1 * MB
BLOB_CHUNKS_AHEAD: Final = 16  # of one blob under way at once: bounds memory, hides the round trip

# ---- results
PURGE_EVERY: Final = 4096  # reports read before the session lets the engine forget them
PURGE_BYTES_EACH: Final = 1024  # so many bytes of a report count as one more: at most 4 MB that were read are kept
MAP_AHEAD: Final = 4096  # calls of a lazy map under way: keeps 2 slots busy at 40k/s, bounds memory
RESULT_KEEP_S: Final = 7 * 24 * 3600.0

# ---- named sessions
SESSION_KEEP_S: Final = 7 * 24 * 3600.0  # without anything happening in it: over a week's absence
SESSION_KEEP_MAX_S: Final = 90 * 24 * 3600.0  # code and large values that nobody claims are removed then
SESSION_BYTES_MAX: Final = 4 * 1024 * MB  # stored by one session: what is submitted beyond it is refused
SESSION_RESULT_BYTES_MAX: Final = 1024 * MB  # of one result
FAILED_KEEP_S: Final = 7 * 24 * 3600.0  # `farmhand failed` knows tasks that ended badly for so long
FAILED_MAX: Final = 1000  # of one session; the oldest go
FAILED_BYTES_MAX: Final = 256 * MB  # of all sessions
RETRIED_SESSION: Final = "retries"  # where tasks run again whose own session is over
BLOCK_TASKS_MAX: Final = 512  # tasks in one stored block: few messages for a million tasks, and none waits for long
BLOCK_AHEAD_TASKS: Final = 4096  # of a lane that a caretaker keeps in memory; it reads the others when it needs them
BLOCK_BLOCKED_TASKS: Final = 65_536  # the same with those that wait for values, which must not keep out what can run
STOP_TASKS_MAX: Final = 4096  # tasks in one request to stop them
BLOCK_AHEAD_BYTES: Final = 16 * MB  # the same in bytes
SUPPLIES_KEPT_BYTES: Final = 16 * MB  # values that tasks of named sessions wait for; others are read from their records
BLOCK_IDS_MAX: Final = 16_384  # newest blocks whose ids a caretaker keeps, 2 MB; it reads older ones when it needs them
SETTLED_PURGE: Final = 256  # reports that were copied into records before the engine forgets them
SESSION_SWEEP_S: Final = 60.0  # how often sessions are looked at that nobody has used for long; sooner if kept for less
ATTACH_S: Final = 0.5  # the longest that attaching waits for the outcomes known so far; the others come later
DETACH_S: Final = 30.0  # the longest that an ending client waits for an engine that does not store what it submitted

# ---- backups
SNAPSHOT_CHUNK_BYTES: Final = 512 * 1024  # what a backup reads at once from the engine; a part of the file each

# ---- looking at queues
PEEK_MAX: Final = 64  # messages of a lane that are opened to count their tasks; beyond it their number is an estimate
EXPLAIN_MAX: Final = 500  # messages of a lane, and of a session in it, that are opened to explain: about 0.1 s
PEEK_TOTAL: Final = 4000  # messages that one question opens in all lanes together: under a second
PEEK_BYTES_TOTAL: Final = 64 * MB  # the same in bytes; a question must not keep the steward from its work

# ---- logs
LOG_KEEP_S: Final = 7 * 24 * 3600.0  # what tasks printed: long enough to ask on Monday about Friday
LOG_DEDUPE_S: Final = 10.0  # a repeated line does little harm, and the engine keeps each id in memory for so long
LOG_BYTES_MAX: Final = 2048 * MB  # on a large disk; more than anybody reads, and the share alone would be waste
