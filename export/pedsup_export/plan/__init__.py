"""What the user asked for, and the plan that follows from it."""
