"""docs/persisted-operations.md says what the code does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dgs
from contract.device_operations import DEVICE_OPERATIONS, MAP, document_hash
from contract.errors import InvalidRequest
from dgs.operations.answers import NOT_FOUND
from dgs.operations.documents import Document, Documents
from dgs.operations.library import Library
from dgs.operations.manifest import parse_manifest
from dgs.operations.request import read_request
from dgs.schema import build_schema
from tests.support.fast_world import ask_for

TEXT = (Path(dgs.__file__).parent.parent / "docs/persisted-operations.md").read_text()
EXAMPLES = [each.partition("```")[0] for each in TEXT.split("```json\n")[1:]]


def test_the_devices_operations_are_named_by_their_hash() -> None:
    assert TEXT.count(document_hash(MAP)) == 2
    for document in DEVICE_OPERATIONS.values():
        assert f"`{document.split()[1].partition('(')[0]}`" in TEXT


def test_the_request_is_understood() -> None:
    body = read_request(ask_for(EXAMPLES[0].encode()))
    assert body is not None
    library = Library(Documents(build_schema()), DEVICE_OPERATIONS)
    found = library.find(body)
    assert isinstance(found, Document)
    assert found.text == MAP


def test_the_answers_are_as_printed() -> None:
    assert NOT_FOUND[b"application/json"].body.decode() in TEXT
    manifest = parse_manifest(EXAMPLES[1].encode(), "m")
    documents = Documents(build_schema())
    assert Library(documents, manifest).stats()["manifest_operations"] == 1
    broken = {key: text.replace("version", "nothing") for key, text in manifest.items()}
    with pytest.raises(InvalidRequest) as refused:
        Library(documents, broken)
    assert str(refused.value) in TEXT
    assert json.loads(EXAMPLES[1])
