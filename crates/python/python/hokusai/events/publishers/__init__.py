"""Publishers of messages."""
