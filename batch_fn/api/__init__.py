"""HTTP routes and the dashboard."""
