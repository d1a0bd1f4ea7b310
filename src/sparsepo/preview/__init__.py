"""What a config would train on, seen before a job starts."""
