"""Alembic's revisions of the schema; `persistence.revisions` runs them, so that no configuration file is needed."""
