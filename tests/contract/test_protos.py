"""The contract explains itself, and the committed code is what it generates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped] # it ships no types
import pytest
from google.protobuf import descriptor_pb2

from quickthaw.scheduler.auth import SCOPES

ROOT = Path(__file__).parents[2]

# Numbers of the fields in descriptor.proto, of which the paths of source comments are made.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM = 2, 3, 4
ENUM_VALUE = 2
SERVICE_METHOD = 2

Location = tuple[int, ...]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Sequence[descriptor_pb2.FileDescriptorProto]:
    """Our .proto files as the compiler reads them, comments included."""
    out = tmp_path_factory.mktemp("descriptors") / "all.pb"
    well_known = resources.files(grpc_tools) / "_proto"
    protos = sorted((ROOT / "proto/quickthaw/v1").glob("*.proto"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", "-I", str(well_known)),
            *("--include_source_info", f"--descriptor_set_out={out}"),
            *(str(path.relative_to(ROOT / "proto")) for path in protos),
        ],
        cwd=ROOT,
        check=True,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file


def test_the_committed_code_is_what_the_protos_generate() -> None:
    done = subprocess.run(
        [ROOT / "scripts/generate-proto", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def named_parts(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[Location, str]]:
    """Everything that must be explained: messages, fields, enums, values, services, calls."""
    for index, message in enumerate(file.message_type):
        yield from _message_parts((FILE_MESSAGE, index), message, message.name)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_parts((FILE_ENUM, index), enum, enum.name)
    for index, service in enumerate(file.service):
        yield (FILE_SERVICE, index), service.name
        for number, method in enumerate(service.method):
            yield (FILE_SERVICE, index, SERVICE_METHOD, number), f"{service.name}.{method.name}"


def _message_parts(
    path: Location, message: descriptor_pb2.DescriptorProto, name: str
) -> Iterator[tuple[Location, str]]:
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, MESSAGE_FIELD, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message_parts(
                (*path, MESSAGE_NESTED, index), nested, f"{name}.{nested.name}"
            )
    for index, enum in enumerate(message.enum_type):
        yield from _enum_parts((*path, MESSAGE_ENUM, index), enum, f"{name}.{enum.name}")


def _enum_parts(
    path: Location, enum: descriptor_pb2.EnumDescriptorProto, name: str
) -> Iterator[tuple[Location, str]]:
    yield path, name
    for index, value in enumerate(enum.value):
        if value.number != 0:  # UNSPECIFIED says it with its name.
            yield (*path, ENUM_VALUE, index), f"{name}.{value.name}"


def test_every_part_of_the_contract_has_a_comment(
    files: Sequence[descriptor_pb2.FileDescriptorProto],
) -> None:
    missing: list[str] = []
    for file in files:
        commented = {
            tuple(location.path)
            for location in file.source_code_info.location
            if (location.leading_comments + location.trailing_comments).strip()
        }
        missing += [name for path, name in named_parts(file) if path not in commented]
    assert missing == []


def test_every_call_of_the_contract_needs_a_stated_scope(
    files: Sequence[descriptor_pb2.FileDescriptorProto],
) -> None:
    calls = {
        f"/{file.package}.{service.name}/{method.name}"
        for file in files
        for service in file.service
        for method in service.method
    }
    assert set(SCOPES) == calls


def test_units_are_in_the_names_of_numbers(
    files: Sequence[descriptor_pb2.FileDescriptorProto],
) -> None:
    """A time, a size or money without its unit is a bug that waits."""
    words = ("time", "duration", "size", "price", "rate", "timeout", "delay")
    units = ("_ms", "_seconds", "_bytes", "_nanodollars", "_per_second", "_unix_ms")
    whole = {"Page.size"}
    numbers = {
        descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
        descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
        descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    }
    wrong = [
        f"{message.name}.{field.name}"
        for file in files
        for message in file.message_type
        for field in message.field
        if field.type in numbers
        and any(word in field.name.split("_") for word in words)
        and not field.name.endswith(units)
        and f"{message.name}.{field.name}" not in whole
    ]
    assert wrong == []
