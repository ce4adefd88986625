"""What survives: the database, its schema, and what is written there."""
