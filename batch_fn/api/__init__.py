"""HTTP routes and the page."""
