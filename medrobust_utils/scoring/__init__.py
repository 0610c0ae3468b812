"""Scores with intervals, and the predictions they come from. Importing this imports nothing."""
