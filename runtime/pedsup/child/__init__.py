"""Child processes: how one is asked, and how it ended."""
