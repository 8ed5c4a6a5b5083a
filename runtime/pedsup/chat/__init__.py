"""Chat: templates, reasoning, and one turn of a conversation on any engine."""
