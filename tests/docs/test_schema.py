"""`docs/schema.md` has every table, column and index that the migrations make, and no other."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import pytest

_PAGE = (Path(__file__).parents[2] / "docs/schema.md").read_text()
_SECTIONS = dict(re.findall(r"^## ([a-z_]+)\n(.*?)(?=^## |\Z)", _PAGE, re.MULTILINE | re.DOTALL))
_NOT_OURS = {"alembic_version"}
_COLUMNS = """
    select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
"""
_INDEXES = """
    select t.relname, i.relname
    from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid
    where t.relnamespace = 'public'::regnamespace
    and not exists (select from pg_constraint where conindid = x.indexrelid and contype in ('p', 'u'))
"""


@pytest.fixture(scope="module")
async def columns(database_urls: dict[str, str]) -> Mapping[str, set[str]]:
    return await _by_table(database_urls["owner"], _COLUMNS)


@pytest.fixture(scope="module")
async def indexes(database_urls: dict[str, str]) -> Mapping[str, set[str]]:
    return await _by_table(database_urls["owner"], _INDEXES)


def test_a_section_is_there_for_every_table(columns: Mapping[str, set[str]]) -> None:
    assert set(_SECTIONS) == set(columns)


def test_a_column_is_in_its_tables_section(columns: Mapping[str, set[str]]) -> None:
    rows = {table: " ".join(re.findall(r"^\|.*", section, re.MULTILINE)) for table, section in _SECTIONS.items()}
    said = {table: set(re.findall(r"`(\w+)`", text)) for table, text in rows.items()}

    assert {table: names - said[table] for table, names in columns.items() if names - said[table]} == {}


def test_what_the_first_cells_name_are_columns(columns: Mapping[str, set[str]]) -> None:
    named = {
        table: set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*)\|", section, re.MULTILINE))))
        for table, section in _SECTIONS.items()
    }

    assert {table: names - columns[table] for table, names in named.items() if names - columns[table]} == {}


def test_the_page_has_every_index_that_has_a_name_and_no_other(indexes: Mapping[str, set[str]]) -> None:
    there = {name for names in indexes.values() for name in names}
    lists = re.findall(r"^Index(?:es)?: .*?(?=\n\n)", _PAGE, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(\w+) \(", " ".join(lists)))

    assert there - set(re.findall(r"`(\w+)\b", _PAGE)) == set()
    assert named - there - set(indexes) == set()  # what an index is on may be named as well


async def _by_table(url: str, query: str) -> Mapping[str, set[str]]:
    connection = await asyncpg.connect(url)
    try:
        found = defaultdict(set)
        for table, name in await connection.fetch(query):
            if table not in _NOT_OURS:
                found[table].add(name)
        return found
    finally:
        await connection.close()
