"""Messages and who publishes them."""
