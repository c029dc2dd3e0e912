"""Many networks trained from scratch on one small task, and what can be concluded from it."""
