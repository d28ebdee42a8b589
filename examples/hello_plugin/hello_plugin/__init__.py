"""Greetings: a complete plugin of the credit system, to be copied."""
