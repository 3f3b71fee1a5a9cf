"""What proves the promises: a simulated world that runs the product's own core under faults.

schedule     virtual time
actor        a process of the world: dies, freezes, waits for answers
network      what happens to messages between a process and the engine
engine       the engine's queues, as far as the core can tell
publisher    stored publishes with retries
calls        the tasks that are submitted, and what really happened to them
client, node, slot, steward    the product's shells around `farmhand.core`, in virtual time
faults       what goes wrong, chosen by a seed
invariants   what must hold after each event
world        all of it together: `run_seed`
"""
