"""From settings to a loaded model: plan, loading, preview, figures and cleaning up."""
