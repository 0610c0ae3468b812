"""Look at what networks see: pure functions, a widget over them, and its static twin."""
