"""The Executor face: `Farm`, its futures, and the driver that runs a session in a thread of its own."""
