"""Pure state machines: no IO, no clock, no random, no asyncio. Events in, effects out; time comes in as `now`."""
