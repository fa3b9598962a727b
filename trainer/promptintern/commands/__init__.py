"""What the command line does besides training: check, preview, answer, export."""
