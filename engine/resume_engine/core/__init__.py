"""Records, rules and the engine; nothing here knows a database or a web framework."""
