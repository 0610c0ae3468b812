"""Look at what networks see: pure functions, a widget over them, and a page."""
