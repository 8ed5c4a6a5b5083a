"""How a file behaves where a mistake would hurt: cases and rules, no judge model."""
