"""The blocks of data inside the page."""

import base64
import gzip
import json
import math

from sparsepo.report.html.packing import pack, rounded


def unpack(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_what_is_packed_is_unpacked_with_its_letters_and_its_order():
    value = {"ends": [1, 2.5, None, "β </script> ü"], "a": {"b": []}}
    assert unpack(pack(value)) == value and pack(value) == pack(dict(reversed(value.items())))


def test_what_json_does_not_know_becomes_null():
    assert unpack(pack([math.nan, [math.inf], {"x": -math.inf}, (1.0,)])) == [None, [None], {"x": None}, [1.0]]


def test_numbers_are_shortened_to_four_digits():
    assert rounded([123456.0, 0.000123456, -2.0]) == [123500.0, 0.0001235, -2.0]
