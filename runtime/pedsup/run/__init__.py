"""From settings to a loaded model: the plan, the loading, the preview, the figures, the end."""
