"""One machine's part in a farm: the agent, its slots, and the supervisor that keeps a machine's processes alive."""
