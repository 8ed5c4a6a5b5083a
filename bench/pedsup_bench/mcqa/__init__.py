"""Multiple-choice questions, answered by the log-probability of the options' letters."""
