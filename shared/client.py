"""The async client: one connection to a daemon, typed calls, a state that follows the journal."""
