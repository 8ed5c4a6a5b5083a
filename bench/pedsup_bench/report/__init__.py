"""What all measurements share: documents, journals, bars, forecasts."""
