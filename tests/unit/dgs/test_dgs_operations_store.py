"""Goal: which document a request means is certain: manifests are read strictly, automatic ones bounded and valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from strawberry.extensions import ValidationCache

from contract.device_operations import DEVICE_OPERATIONS, FIRST, MAP, document_hash
from contract.errors import InvalidRequest
from dgs.operations.answers import NOT_FOUND, NOT_IN_MANIFEST, WRONG_HASH, WRONG_VERSION
from dgs.operations.apq import AutomaticOperations
from dgs.operations.documents import Document, Documents
from dgs.operations.library import Library, load_library
from dgs.operations.manifest import parse_manifest, sha256_of, with_hashes
from dgs.operations.request import Body, named_hash, read_request, whole_request
from dgs.schema import build_schema
from dgs.serving import Ask
from dgs.settings import DgsSettings
from tests.support.fast_world import POSTED, ask_for

SCHEMA = build_schema()
VALID = '{ prefetchEvent(eventId: "e", profileId: "p") { version } }'
OTHER = '{ prefetchEvent(eventId: "e", profileId: "p") { revision } }'
INVALID = '{ prefetchEvent(eventId: "e") { nothing } }'


def by_hash(key: str, text: str | None = None, version: int = 1) -> Body:
    ask = ask_for({"query": text, "extensions": {"persistedQuery": {"version": version, "sha256Hash": key}}})
    body = read_request(ask)
    assert body is not None
    return body


# Manifests
def test_a_manifest_is_apollos_or_a_plain_object() -> None:
    plain = parse_manifest(json.dumps({"map": VALID}).encode(), "m.json")
    entry = {"id": "map", "name": "Map", "type": "query", "body": VALID}
    apollo = {"format": "apollo-persisted-query-manifest", "version": 1, "operations": [entry]}
    assert parse_manifest(json.dumps(apollo).encode(), "m.json") == plain == {"map": VALID}
    assert with_hashes(plain) == {"map": VALID, sha256_of(VALID): VALID}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "truncated"),
        (b"[1]", "object"),
        (b'{"a": 1}', "Expected `str`"),
        (b'{"": "x"}', "1 to 128"),
        (b'{"operations": [], "format": "other", "version": 1}', "not 'apollo-persisted-query-manifest'"),
        (b'{"operations": [{"id": "a"}], "format": "apollo-persisted-query-manifest", "version": 1}', "body"),
        (
            b'{"operations": [{"id": "a", "body": "x", "type": "mutation"}], '
            b'"format": "apollo-persisted-query-manifest", "version": 1}',
            "no query",
        ),
        (
            b'{"operations": [{"id": "a", "body": "x"}, {"id": "a", "body": "y"}], '
            b'"format": "apollo-persisted-query-manifest", "version": 1}',
            "two documents",
        ),
        (b'{"a": "{__typename}\xff"}', "utf-8"),
    ],
)
def test_a_bad_manifest_is_refused_by_name(content: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=r"m\.json") as refused:
        parse_manifest(content, "m.json")
    assert says in str(refused.value)


def test_a_manifest_with_an_operation_the_schema_refuses_does_not_start() -> None:
    with pytest.raises(InvalidRequest, match="operation 'bad': Cannot query field 'nothing'"):
        Library(Documents(SCHEMA), {"good": VALID, "bad": INVALID})


def test_settings_decide_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"own": VALID}))
    for mode, devices in (("any", True), ("manifest", False)):
        settings = DgsSettings(operations_path=path, operations_mode=mode)  # type: ignore[arg-type]
        library = load_library(settings, SCHEMA)
        assert isinstance(library.find(Body(id="own")), Document)
        assert isinstance(library.find(by_hash(document_hash(FIRST))), Document) is devices
    with pytest.raises(InvalidRequest, match="No such file"):
        load_library(DgsSettings(operations_path=tmp_path / "none.json"), SCHEMA)


def test_every_operation_of_the_devices_is_compiled() -> None:
    library = load_library(DgsSettings(), SCHEMA)
    for key, text in DEVICE_OPERATIONS.items():
        found = library.find(Body(documentId=f"sha256:{key}"))
        assert isinstance(found, Document)
        operation = found.operation(None)
        assert operation is not None
        assert not isinstance(operation.plan(()), str)
        assert operation.plan(()).roots, text  # type: ignore[union-attr]


# Automatic ones
def test_automatic_operations_are_bounded_by_entries_and_bytes() -> None:
    kept = AutomaticOperations(max_entries=3, max_bytes=100)
    for name in "abcd":
        assert kept.keep(name, name * 10)
    assert [name for name in "abcd" if kept.peek(name)] == ["b", "c", "d"]
    assert kept.get("b") == "b" * 10
    kept.keep("e", "é" * 30)
    assert [name for name in "bcde" if kept.peek(name)] == ["d", "b", "e"] or kept.held_bytes <= 100
    assert kept.peek("b"), "used last"
    assert kept.held_bytes == sum(len((kept.peek(name) or "").encode()) for name in "abcde")
    assert not kept.keep("f", "x" * 101)
    assert kept.peek("e"), "what does not fit pushes nothing out"
    assert not AutomaticOperations(max_entries=0, max_bytes=100).keep("a", "a")


def test_a_document_is_learnt_with_its_hash_and_then_known_by_it() -> None:
    library = Library(Documents(SCHEMA), {})
    key = sha256_of(VALID)
    assert library.find(by_hash(key)) is NOT_FOUND
    assert library.peek(by_hash(key)) is None
    assert isinstance(library.find(by_hash(key.upper(), VALID)), Document)
    found = library.find(by_hash(key))
    assert isinstance(found, Document)
    assert found.text == VALID
    assert library.peek(by_hash(key)) is found
    assert library.stats()["apq_entries"] == 1


def test_no_hash_is_poisoned() -> None:
    library = Library(Documents(SCHEMA), {"known": VALID})
    assert library.find(by_hash(sha256_of(VALID), OTHER)) is WRONG_HASH
    assert library.find(by_hash("0" * 64, OTHER)) is WRONG_HASH
    assert library.find(by_hash(sha256_of(OTHER), OTHER, version=2)) is WRONG_VERSION
    assert library.find(by_hash(sha256_of(INVALID), INVALID)) == INVALID, "the schema's own execution says why"
    assert library.find(by_hash(sha256_of(INVALID))) is NOT_FOUND, "what is no operation takes no place"
    assert library.stats()["apq_entries"] == 0


def test_what_is_evicted_is_not_found_and_may_come_again() -> None:
    library = Library(Documents(SCHEMA), {}, apq_entries=1)
    library.find(by_hash(sha256_of(VALID), VALID))
    library.find(by_hash(sha256_of(OTHER), OTHER))
    assert library.find(by_hash(sha256_of(VALID))) is NOT_FOUND
    assert isinstance(library.find(by_hash(sha256_of(VALID), VALID)), Document)


def test_modes_say_what_may_be_asked() -> None:
    manifest, apq, anything = (
        Library(Documents(SCHEMA), {"known": VALID}, mode=mode) for mode in ("manifest", "apq", "any")
    )
    for library in (manifest, apq, anything):
        assert isinstance(library.find(Body(query=VALID)), Document), "the manifest's text is as good as its id"
    assert manifest.find(by_hash(sha256_of(OTHER), OTHER)) is NOT_IN_MANIFEST
    assert manifest.find(Body(query=OTHER)) is apq.find(Body(query=OTHER)) is NOT_IN_MANIFEST
    assert isinstance(apq.find(by_hash(sha256_of(OTHER), OTHER)), Document)
    assert anything.find(Body(query=OTHER)) == OTHER, "a document seen once is not compiled"
    assert isinstance(anything.find(Body(query=OTHER)), Document)
    assert anything.find(Body()) == ""


def test_documents_in_use_are_bounded() -> None:
    documents = Documents(SCHEMA)
    for number in range(300):
        assert documents.get(VALID.replace("version", f"v{number}: version")) is not None
    assert len(documents) == 256
    big = "#" + "x" * 200_000
    assert documents.get(VALID + big) is not None
    assert documents.get(OTHER + big) is not None
    assert len(documents) == 1, "two of these are over the bytes of text"


def test_what_the_schema_refused_once_is_not_validated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Documents(SCHEMA)
    assert documents.get(INVALID) is None
    monkeypatch.setattr(documents, "_valid", lambda text: pytest.fail("validated twice"))
    assert documents.get(INVALID) is None
    assert documents.invalid == 2


async def test_what_its_own_execution_refused_is_not_validated_here_once_more() -> None:
    """A long document takes a tenth of a second: once, whoever is asked first and whoever second."""
    text = INVALID.replace("{", "{ __typename", 1)
    validations: Any = ValidationCache(maxsize=256).cached_validate_document
    result = await SCHEMA.execute(text)
    assert result.errors
    before = validations.cache_info()
    assert Documents(SCHEMA).get(text) is None
    after = validations.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)


def test_limits_of_the_schema_are_limits_here() -> None:
    documents = Documents(SCHEMA)
    aliases = " ".join(f"a{number}: version" for number in range(16))
    deep = "{ prefetchEvent(eventId: 1, profileId: 1) { stages { rows { titles { artwork { kind } } } } } }"
    assert documents.get(f'{{ prefetchEvent(eventId: "e", profileId: "p") {{ {aliases} }} }}') is None
    assert documents.get("{ " + "__typename " * 2_001 + "}") is None
    assert documents.get("{ __schema { types { name } } }") is None
    assert documents.get(deep) is not None
    strict = Documents(build_schema(DgsSettings(max_query_depth=4)))
    assert strict.get(deep) is None
    assert "depth" in str(strict.errors(deep))
    assert documents.get("query { ...Lost }") is None
    assert documents.get("{") is None


# Requests
def test_the_same_operation_by_post_and_by_get() -> None:
    key = sha256_of(MAP)
    posted = read_request(ask_for({"documentId": f"sha256:{key}", "variables": {"a": "ü+%&"}}))
    query = f"documentId=sha256%3A{key}&variables=%7B%22a%22%3A%22%C3%BC%2B%25%26%22%7D"
    got = read_request(Ask("GET", "/graphql", query, {}, b"", "", 0.0))
    shouted = read_request(ask_for({"documentId": f"sha256:{key.upper()}"}))
    assert shouted is not None
    assert named_hash(shouted) == key
    assert posted == got
    assert got is not None
    assert named_hash(got) == key
    extensions = "extensions=%7B%22persistedQuery%22%3A%7B%22version%22%3A1%2C%22sha256Hash%22%3A%22AB%22%7D%7D"
    apollo = read_request(Ask("GET", "/graphql", extensions, {}, b"", "", 0.0))
    assert apollo is not None
    assert named_hash(apollo) == "ab"


@pytest.mark.parametrize(
    "ask",
    [
        Ask("GET", "/graphql", "", {}, b"", "", 0.0),
        Ask("GET", "/graphql", "variables=%7B%7D", {}, b"", "", 0.0),
        Ask("GET", "/graphql", "id=a&id=b", {}, b"", "", 0.0),
        Ask("GET", "/graphql", "id=%ff", {}, b"", "", 0.0),
        Ask("GET", "/graphql", "id=a&variables=[1]", {}, b"", "", 0.0),
        Ask("GET", "/graphql", "id=a" + "&x=1" * 20, {}, b"", "", 0.0),
        Ask("PUT", "/graphql", "id=a", POSTED, b'{"id":"a"}', "", 0.0),
        Ask("POST", "/graphql", "", {}, b'{"id":"a"}', "", 0.0),
        Ask("POST", "/graphql", "", POSTED, b"[]", "", 0.0),
        Ask("POST", "/graphql", "", POSTED, b'{"id":"\\ud800"}', "", 0.0),
        Ask("POST", "/graphql", "", POSTED, b'{"id":"a","variables":' + b"[" * 5_000, "", 0.0),
        Ask("POST", "/graphql", "", POSTED, b'{"id":1}', "", 0.0),
    ],
)
def test_what_is_not_plainly_one_operation_is_nobodys_here(ask: Ask) -> None:
    assert read_request(ask) is None


def test_a_whole_request_says_the_same() -> None:
    ask = Ask("GET", "/graphql", "id=a", {b"authorization": b"Bearer x"}, b"", "::1", 1.5)
    body = Body(id="a", variables={"x": 1e300, "y": [None, -0.0, "\u2028\x00"], "z": 2**63}, operationName="N")
    whole = whole_request(ask, body, VALID)
    assert (whole.method, whole.query, whole.host, whole.arrived_s) == ("POST", "", "::1", 1.5)
    assert whole.fields[b"authorization"] == b"Bearer x"
    read = read_request(whole)
    assert read is not None
    assert (read.query, read.variables, read.operationName) == (VALID, body.variables, "N")
