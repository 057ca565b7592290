"""Documents of Arrow tables: the columns that `Fields` names, as bytes."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from compressed_lm.data.corpus import Document
from compressed_lm.data.sources.fields import FieldError, Fields, listed


def check(schema: pa.Schema, fields: Fields) -> list[str]:
    """Returns the names of the columns that `fields` needs, as Parquet readers take them.

    Raises:
        FieldError: a column is missing, or is not text; the message says what the schema has.
    """
    for name in fields.names:
        kind = _type_of(schema, name)
        if kind is None:
            raise FieldError(f"has the columns {listed(_leaves(schema))}, and no column {name}")
        if not _is_text(kind) and not (_is_number_of(fields, name) and pa.types.is_integer(_plain(kind))):
            raise FieldError(f"has a column {name} of type {kind}")
    return fields.names


def documents(table: pa.Table | pa.RecordBatch, fields: Fields) -> Iterator[Document]:
    """Yields the documents of the rows of a table that `check` has accepted.

    Raises:
        FieldError: a value is null; the second argument of the error is the index of the row.
    """
    parts = [(text.encode(), _values(table, name) if name else None) for text, name in fields.parts]
    ids = None if fields.id is None else _values(table, fields.id)
    (prefix, only), *more = parts
    if only is not None and not prefix and not more:
        texts = only
    else:
        rows = range(len(table))
        texts = [b"".join(text + (values[row] if values else b"") for text, values in parts) for row in rows]
    for row, text in enumerate(texts):
        yield Document(text, None if ids is None else ids[row].decode("utf-8", "replace"))


def _values(table: pa.Table | pa.RecordBatch, name: str) -> list[bytes]:
    """Returns the values of a column. Raises FieldError at the first null, ArrowInvalid if a file is damaged."""
    keys = [name] if name in table.schema.names else name.split(".")
    column = table.column(keys[0])
    for chunk in _chunks(column):
        chunk.validate()  # a damaged file must not be read outside its memory
    for key in keys[1:]:
        column = pc.struct_field(column, key)
    if column.null_count:
        row = pc.index(pc.is_null(column), pa.scalar(True)).as_py()
        raise FieldError(f"has no value (null) in the column {name}", row)
    return [value for chunk in _chunks(column) for value in _as_bytes(chunk).to_pylist()]


def _chunks(column: pa.ChunkedArray | pa.Array) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _as_bytes(array: pa.Array) -> pa.Array:
    """Returns strings and whole numbers as binary values; most are not copied."""
    if pa.types.is_dictionary(array.type):
        array.validate(full=True)
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    if pa.types.is_large_string(array.type):
        array = array.view(pa.large_binary())
    elif pa.types.is_string(array.type):
        array = array.view(pa.binary())
    array.validate(full=True)  # of binary values this checks the offsets alone
    return array


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Returns the type of a column, which may be nested; None if it is missing."""
    if schema.get_field_index(name) >= 0:
        return schema.field(name).type
    inner: Any = schema
    for key in name.split("."):
        index = inner.get_field_index(key) if isinstance(inner, pa.Schema | pa.StructType) else -1
        if index < 0:
            return None
        found = inner.field(index)
        inner = found.type
    return inner


def _leaves(schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        if isinstance(field.type, pa.StructType):
            yield from (f"{field.name}.{inner.name}" for inner in field.type)
        else:
            yield field.name


def _is_number_of(fields: Fields, name: str) -> bool:
    """Whether a column may have whole numbers: in templates and ids."""
    return fields.template is not None or name == fields.id


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    kind, is_ = _plain(kind), pa.types
    return (
        is_.is_string(kind)
        or is_.is_large_string(kind)
        or is_.is_string_view(kind)
        or is_.is_binary(kind)
        or is_.is_large_binary(kind)
        or is_.is_binary_view(kind)
        or is_.is_fixed_size_binary(kind)
    )
