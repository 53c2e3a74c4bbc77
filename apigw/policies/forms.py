"""
Forms in bodies: ``application/x-www-form-urlencoded`` (URL Standard 5.1) and ``multipart/form-data`` (RFC 7578), read
within bounds into named fields.

Not here: which values the fields have (``openapi_document``).
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl

import multipart

from apigw.exchange.errors import BodyTooLarge, ClientFault

MOST_FIELDS = 1000
"""Fields of a form."""
MOST_PARTS = 256
"""Parts of multipart content; each costs about 30 us."""
_MOST_HEADERS = 8
_LONGEST_HEADER = 4096


class Field(NamedTuple):
    """
    One field of a form.

    :ivar kind: its media type in lower case, without parameters; empty if it has none.
    :ivar is_file: it has a filename.
    """

    name: str
    content: bytes
    kind: str = ""
    is_file: bool = False


def urlencoded(data: bytes) -> list[Field]:
    """
    The fields of a form.

    :raises ClientFault: when there are too many.
    """
    try:
        pairs = parse_qsl(
            data.decode("latin-1"), keep_blank_values=True, encoding="latin-1", max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise BodyTooLarge(f"a form has at most {MOST_FIELDS} fields", reason="form_too_large") from None
    return [Field(name.encode("latin-1").decode("utf-8", "replace"), value.encode("latin-1")) for name, value in pairs]


def multipart_form(data: bytes, content_type: bytes) -> list[Field]:
    """
    The parts of multipart content.

    :param content_type: the field with the boundary.
    :raises ClientFault: when it is malformed, or has too many parts.
    """
    fields: list[Field] = []
    try:
        boundary = multipart.parse_options_header(content_type.decode("latin-1"))[1].get("boundary", "")
        with multipart.PushMultipartParser(
            boundary,
            max_header_size=_LONGEST_HEADER,
            max_header_count=_MOST_HEADERS,
            max_segment_count=MOST_PARTS,
            strict=True,
        ) as parser:
            part: multipart.MultipartSegment | None = None
            pieces: list[bytes] = []
            for event in parser.parse(data):
                if isinstance(event, multipart.MultipartSegment):
                    part, pieces = event, []
                elif event:
                    pieces.append(bytes(event))
                elif part is not None:
                    file = part.filename is not None
                    fields.append(Field(part.name or "", b"".join(pieces), part.content_type or "", file))
                    part = None
    except multipart.ParserLimitReached as error:
        raise BodyTooLarge(f"the multipart content is beyond the limits: {error}", reason="form_too_large") from None
    except (multipart.MultipartError, ValueError) as error:
        raise ClientFault(f"the multipart content is malformed: {error}", reason="form_invalid") from None
    return fields
