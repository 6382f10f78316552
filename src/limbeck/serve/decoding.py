"""What a request gives: inputs of JSON, of a form, or of one picture or text by itself."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from limbeck.serve.fields import FIELDS, PICTURES
from limbeck.serve.forms import read_form
from limbeck.serve.limits import Limits
from limbeck.serve.refusals import Refused

Items = list[dict[str, Any]]

HELP = (
    'send JSON, {"inputs": […]}; a form (multipart/form-data); or one picture or text as the body, with Content-Type '
    "image/… or text/plain"
)


def kind_of(headers: Mapping[str, str]) -> str:
    """How a body is written: `json`, `form`, `picture` or `text`.

    Raises:
        Refused: in another way.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "Content-Encoding: compressed requests are not read; send it as it is")
    stated = headers.get("content-type", "").partition(";")[0].strip().lower()
    if stated == "application/json" or stated.endswith("+json"):
        return "json"
    if stated == "multipart/form-data":
        return "form"
    if stated.startswith("image/") or stated == "application/octet-stream":
        return "picture"
    if stated == "text/plain":
        return "text"
    raise Refused(415, f"Content-Type: {stated[:60]!r} is not read; {HELP}")


def of_json(task: str, body: bytes, limits: Limits) -> Items:
    """The inputs of `{"inputs": […]}` or `{"input": …}`; pictures are base64.

    Raises:
        Refused: it is not JSON, or says something else.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8; encode the JSON so") from None
    except RecursionError:
        raise Refused(400, "the JSON is nested too deep; it needs three levels") from None
    except ValueError as error:
        raise Refused(400, f"the body is not valid JSON ({str(error)[:80]}); correct it") from None
    if not isinstance(value, dict) or set(value) not in ({"inputs"}, {"input"}):
        raise Refused(422, 'expected {"inputs": […]} or {"input": …}, and nothing beside it')
    items = value["inputs"] if "inputs" in value else [value["input"]]
    if not isinstance(items, list):
        raise Refused(422, f"inputs: expected a list, got {type(items).__name__}; of one say input")
    check_count(len(items), limits)
    return [_item(task, each, number) for number, each in enumerate(items)]


def of_form(content_type: str, body: bytes, limits: Limits) -> Items:
    """The inputs of a form whose fields are called as the parts of an input; the first of each is of the first input.

    Raises:
        Refused: it is no form, or its fields are not as many as each other.
    """
    columns: dict[str, list[Any]] = {}
    for key, value in read_form(content_type, body, 4 * limits.inputs):
        columns.setdefault(key, []).append(_text(value, key))
    count = max(map(len, columns.values()), default=0)
    check_count(count, limits)
    for key, values in columns.items():
        if len(values) != count:
            raise Refused(422, f"the form has {len(values)} of {key!r:.60} and {count} inputs; give one for each")
    return [{key: values[at] for key, values in columns.items()} for at in range(count)]


def of_one(task: str, kind: str, body: bytes, query: Mapping[str, str]) -> Items:
    """The one input of a body that is a picture or a text; a box, or a second text, is in the query.

    Raises:
        Refused: the task reads the other, or the text is not UTF-8.
    """
    first = FIELDS[task].needed[0]
    if (first == "picture") != (kind == "picture"):
        raise Refused(415, f"this server is for {task.replace('-', ' ')}, which does not read a {kind}")
    item: dict[str, Any] = {key: value for key, value in query.items() if key not in (*PICTURES, "teacher")}
    return [{**item, first: body if kind == "picture" else _text(body, first)}]


def check_count(count: int, limits: Limits) -> None:
    """Raises Refused where there is no input, or too many."""
    if not count:
        raise Refused(422, "no input; give at least one")
    if count > limits.inputs:
        raise Refused(
            422, f"{count:,} inputs, {limits.inputs:,} are the most; send several requests (whoever runs the server: "
            "--max-inputs)",
        )  # fmt: skip


def _item(task: str, value: Any, number: int) -> dict[str, Any]:
    fields = FIELDS[task]
    if isinstance(value, str) and len(fields.needed) == 1:
        value = {fields.needed[0]: value}
    if not isinstance(value, dict):
        raise Refused(422, f"input {number}: expected an object with {fields}, got {type(value).__name__}")
    return {
        key: _bytes(each, f"input {number}: {key}") if key in PICTURES and each is not None else each
        for key, each in value.items()
    }


def _bytes(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(422, f"{name}: expected the bytes of a picture in base64, got {type(value).__name__}")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, f"{name}: expected the bytes of a picture in base64; names of files are not read") from None


def _text(value: Any, name: str) -> Any:
    """A text that came as bytes; pictures and texts as they are."""
    if name in PICTURES or not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(422, f"{name:.60}: the text is not UTF-8; encode it so") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
