"""The commands other than training: check, preview, answer and export."""
