"""How the statements are executed: as text, with the driver's own parameters."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter

from sqlalchemy import Dialect
from sqlalchemy.engine import Connection

from quickthaw.scheduler.store.statements import Statement, Value, constructs

INSERT_ROWS_MAX = 64
"""In one execution; the widest row has some thirty values, and SQLite takes 32,766."""


class _Insert:
    """An insert for any number of rows, with parameters by place."""

    def __init__(self, sql: str) -> None:
        """`sql`: with one row of parameters by name."""
        found = re.fullmatch(r"(.* VALUES )\((.*?)\)(.*)", sql, re.DOTALL)
        assert found is not None, sql
        self._before, names, self._after = found.groups()
        columns = [name.strip().removeprefix(":") for name in names.split(",")]
        self._row = f"({', '.join('?' for _ in columns)})"
        self._get = itemgetter(*columns)
        self._texts: dict[int, str] = {}

    def values(self, row: Mapping[str, Value]) -> tuple[Value, ...]:
        """Raises ProgrammingError, as the driver does with parameters by name."""
        try:
            found: tuple[Value, ...] = self._get(row)
            return found
        except KeyError as error:
            raise sqlite3.ProgrammingError(f"no value for {error.args[0]}") from error

    def sql(self, count: int) -> str:
        """One of few texts, for each is compiled once and kept."""
        if (text := self._texts.get(count)) is None:
            rows = ", ".join([self._row] * count)
            text = self._texts[count] = f"{self._before}{rows}{self._after}"
        return text


class Statements:
    """The statements as text for one database's driver, with parameters by name.

    They are compiled once: a batch is a handful of rows, and SQLAlchemy's way of executing a
    construct costs several times what SQLite needs for them.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._postgres = dialect.name == "postgresql"
        self._sql = {
            statement: str(construct.compile(dialect=dialect))
            for statement, construct in constructs(dialect).items()
        }
        self._inserts: Mapping[Statement, _Insert] = {}
        if not self._postgres:
            self._inserts = {
                statement: _Insert(text)
                for statement, text in self._sql.items()
                if text.startswith("INSERT")
            }

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[None]:
        """For `execute`. On SQLite it goes to the driver: what SQLAlchemy does around a transaction
        takes as long as the few rows of a lone write."""
        if self._postgres:
            with connection.begin():
                yield
            return
        driver = connection.connection
        cursor = driver.cursor()
        cursor.execute("BEGIN")
        try:
            yield
            cursor.execute("COMMIT")
        except BaseException:
            driver.rollback()
            raise

    def execute(
        self, connection: Connection, statement: Statement, rows: Sequence[Mapping[str, Value]]
    ) -> None:
        """All rows, in their order. On SQLite those of an insert go many at a time: the driver lets
        other Python threads run, and waits for them, at each execution."""
        if self._postgres:
            connection.exec_driver_sql(self._sql[statement], rows)
            return
        cursor = connection.connection.cursor()
        if (insert := self._inserts.get(statement)) is None:
            cursor.executemany(self._sql[statement], rows)
            return
        start = 0
        while start < len(rows):
            count = min(1 << (len(rows) - start).bit_length() - 1, INSERT_ROWS_MAX)
            some = chain.from_iterable(map(insert.values, rows[start : start + count]))
            cursor.execute(insert.sql(count), tuple(some))
            start += count
