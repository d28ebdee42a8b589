"""The files of a backup: what goes in comes out in the same bytes, and what was damaged is noticed, never half read."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.backup_files import BadBackup, Part, PartWriter, check_file, count_documents, documents_of

documents = st.lists(
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.binary() | st.text() | st.integers(-9, 9))
)


def written(folder: Path, batches: list[bytes]) -> Part:
    with PartWriter(folder / "main.users.bson.gz") as writer:
        for batch in batches:
            writer.add(batch)
    return writer.part("users", plugins=False, indexes=[])


@given(documents, st.integers(1, 5))
def test_documents_come_back_in_their_bytes(found: list[dict[str, object]], at_once: int) -> None:
    raw = [bson.encode(document) for document in found]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part = written(folder, [b"".join(raw[at : at + at_once]) for at in range(0, len(raw), at_once)])
        check_file(folder, part)
        assert list(documents_of(folder, part)) == raw
        assert (part.documents, part.bytes) == (len(raw), sum(map(len, raw)))
        assert count_documents(b"".join(raw)) == len(raw)


@given(st.integers(1, 60))
def test_a_file_that_is_cut_off_is_noticed(missing: int) -> None:
    raw = bson.encode({"_id": "u_1", "username": "x" * 40})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part = written(folder, [raw, raw])
        path = folder / part.file
        whole = path.read_bytes()
        path.write_bytes(whole[:-missing])
        with pytest.raises(BadBackup):
            check_file(folder, part)
        # Also where it was cut before it was compressed.
        path.write_bytes(gzip.compress((raw + raw)[:-missing]))
        with pytest.raises(BadBackup):
            list(documents_of(folder, part))


def test_a_length_that_no_document_has_is_noticed(tmp_path: Path) -> None:
    part = written(tmp_path, [bson.encode({"a": 1})])
    for length in (0, 3, 1 << 30):
        (tmp_path / part.file).write_bytes(gzip.compress(length.to_bytes(4, "little") + b"\0" * 20))
        with pytest.raises(BadBackup):
            list(documents_of(tmp_path, part))
    for damaged in (b"no gzip", (whole := gzip.compress(bson.encode({"a": "b" * 99})))[:-9], whole[:12] + b"\xff" * 20):
        (tmp_path / part.file).write_bytes(damaged)
        with pytest.raises(BadBackup):
            list(documents_of(tmp_path, part))
