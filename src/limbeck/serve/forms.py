"""Forms (multipart/form-data), read in memory."""

from __future__ import annotations

from collections.abc import Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from limbeck.serve.refusals import Refused

LONGEST_BOUNDARY = 70
"""Bytes, by RFC 2046."""


def read_form(content_type: str, body: bytes, most: int) -> list[tuple[str, bytes]]:
    """The names and contents of a form's fields, files among them, in their order.

    Raises:
        Refused: it is no whole form, or has more than `most` fields.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY:
        raise Refused(400, f"the form's Content-Type has no boundary of at most {LONGEST_BOUNDARY} bytes")
    reader = _Reader(most)
    try:
        MultipartParser(boundary, reader.callbacks()).write(body)  # type: ignore[arg-type]
    except FormParserError as error:
        raise Refused(400, f"the form is not valid ({str(error)[:80]}); let a library write it") from None
    if not reader.ended:
        raise Refused(400, "the form breaks off; send it whole, with the boundary that ends it")
    return reader.fields


class _Reader:
    def __init__(self, most: int) -> None:
        self.fields: list[tuple[str, bytes]] = []
        self.ended = False
        self._most = most
        self._header, self._value, self._name, self._data = bytearray(), bytearray(), "", bytearray()

    def callbacks(self) -> Mapping[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._read_header,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._finish,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.fields) == self._most:
            raise Refused(422, f"the form has more than {self._most} fields; send several requests")
        self._name, self._data = "", bytearray()

    def _read_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            name = parse_options_header(bytes(self._value))[1].get(b"name", b"")
            self._name = name.decode("utf-8", "replace")
        self._header, self._value = bytearray(), bytearray()

    def _finish(self) -> None:
        if not self._name:
            raise Refused(400, "the form has a field without a name; call it as a part of an input")
        self.fields.append((self._name, bytes(self._data)))

    def _end(self) -> None:
        self.ended = True
