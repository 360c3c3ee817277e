"""Brings a store's schema to what this code expects."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from quickthaw.wire import errors


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", "quickthaw.scheduler.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Runs the missing migrations in one transaction each.

    Raises FailedPrecondition if the store was written by a newer release: an older one would
    misread it.
    """
    config = _config(connection)
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    current = set(MigrationContext.configure(connection).get_current_heads())
    if newer := current - known:
        raise errors.FailedPrecondition(
            f"the store's schema is {', '.join(sorted(newer))}, which is newer than this release "
            f"knows ({', '.join(scripts.get_heads())}); run the newer release, or restore a "
            "backup from before it"
        )
    if connection.in_transaction():
        connection.commit()
    if current != set(scripts.get_heads()):
        command.upgrade(config, "head")
        connection.commit()
