"""The invalid vectors of the manifest as JSON."""

from __future__ import annotations

from vector_builder import File, tensor, text
from vector_case import PLAIN, Case, Content, Variants, invalid, metadata, plain

RAW = text(PLAIN)
W = text(tensor("float32", (2, 3))).decode()
NAME = '"tensors":{"w"'


def _raw(data: bytes) -> File:
    return plain(manifest=data)


def _replaced(old: str, new: str) -> File:
    assert RAW.count(old.encode()) == 1, old
    return _raw(RAW.replace(old.encode(), new.encode()))


def _string(data: bytes) -> File:
    return metadata(b'{"s":"a' + data + b'z"}')


def _nested(opening: str, closing: str, levels: int) -> str:
    return opening * levels + "0" + closing * levels


def _number(raw: str) -> tuple[str, Content]:
    return f"the number {raw}", metadata(f'{{"n":{raw}}}')


def _token(raw: str) -> tuple[str, Content]:
    return f"the value {raw}", metadata(f'{{"n":{raw}}}')


def _escape(raw: str) -> tuple[str, Content]:
    return f"the text {ascii(raw)[1:-1]} in a string", _string(raw.encode())


ENCODING: Variants = {
    "bom": ("a byte order mark", _raw(b"\xef\xbb\xbf" + RAW)),
    "utf-16": (
        "UTF-16 with a byte order mark",
        _raw(b"\xff\xfe" + RAW.decode().encode("utf-16-le")),
    ),
    "overlong-slash": ("an overlong slash", _string(b"\xc0\xaf")),
    "overlong-nul": ("an overlong NUL", _string(b"\xc0\x80")),
    "overlong-3": ("an overlong form of three bytes", _string(b"\xe0\x80\xaf")),
    "overlong-4": ("an overlong form of four bytes", _string(b"\xf0\x80\x80\xaf")),
    "surrogate": ("an encoded surrogate", _string(b"\xed\xa0\x80")),
    "cesu-8": ("an encoded pair of surrogates", _string(b"\xed\xa0\xbd\xed\xb8\x80")),
    "too-great": ("a code point over U+10FFFF", _string(b"\xf4\x90\x80\x80")),
    "five-bytes": ("a form of five bytes", _string(b"\xf8\x88\x80\x80\x80")),
    "lone-continuation": ("a lone continuation byte", _string(b"\x80")),
    "cut-short": ("a sequence cut short in a string", _string(b"\xe5\xb1")),
    "latin-1": ("Latin-1", _string(b"caf\xe9")),
    "in-name": ("a wrong byte in a tensor's name", _raw(RAW.replace(b'{"w"', b'{"\xff"'))),
}

SYNTAX: Variants = {
    "array": ("an array around the object", _raw(b"[" + RAW + b"]")),
    "empty-array": ("an empty array", _raw(b"[]")),
    "number": ("a number", _raw(b"12")),
    "null": ("null", _raw(b"null")),
    "string": ("a string", _raw(b'"{}"')),
    "white-space": ("nothing but white space", _raw(b" \n")),
    "utf-16-bare": ("UTF-16 without a mark", _raw(RAW.decode().encode("utf-16-le"))),
    "nul-after": ("a NUL after the object", _raw(RAW + b"\0")),
    "nuls-after": ("padding with NULs", _raw(RAW + bytes(64))),
    "nul-before": ("a NUL before the object", _raw(b"\0" + RAW)),
    "garbage-after": ("a letter after the object", _raw(RAW + b"x")),
    "brace-after": ("a brace too many", _raw(RAW + b"}")),
    "two-objects": ("two objects", _raw(RAW + b"\n" + RAW)),
    "comma-after": ("a comma after the object", _raw(RAW + b",")),
    "unclosed": ("the last brace missing", _raw(RAW[:-1])),
    "wrong-bracket": ("a bracket in the place of the last brace", _raw(RAW[:-1] + b"]")),
    "trailing-comma": ("a comma before a closing brace", metadata('{"a":1,}')),
    "trailing-comma-array": ("a comma before a closing bracket", metadata('{"a":[1,]}')),
    "leading-comma": ("a comma after an opening bracket", metadata('{"a":[,1]}')),
    "two-commas": ("two commas", metadata('{"a":[1,,1]}')),
    "no-comma": ("a comma missing", metadata('{"a":1 "b":2}')),
    "no-colon": ("a colon missing", metadata('{"a" 1}')),
    "two-colons": ("two colons", metadata('{"a"::1}')),
    "no-value": ("a value missing", metadata('{"a":}')),
    "no-key": ("a member name missing", metadata("{:1}")),
    "bare-key": ("a member name without quotes", metadata("{a:1}")),
    "number-key": ("a number as a member name", metadata("{1:1}")),
    "single-quotes": ("single quotes", metadata("{'a':1}")),
    "comment-line": ("a comment", metadata("{//c\n}")),
    "comment": ("a comment in the manner of C", metadata("{/*c*/}")),
    "comment-hash": ("a comment after the object", _raw(RAW + b"\n#c")),
    "vertical-tab": ("a vertical tab between tokens", metadata("{\v}")),
    "form-feed": ("a form feed between tokens", metadata("{\f}")),
    "no-break-space": ("a no-break space between tokens", metadata("{\xa0}")),
    "line-separator": ("a line separator between tokens", metadata("{\u2028}")),
    "mark-after": ("a byte order mark after the object", _raw(RAW + b"\xef\xbb\xbf")),
    "unclosed-string": ("a string without end", _raw(RAW.replace(b'"weights"', b'"weights'))),
    **{
        f"token-{name}": _token(raw)
        for name, raw in {
            "nan": "NaN",
            "infinity": "Infinity",
            "minus-infinity": "-Infinity",
            "true": "True",
            "none": "None",
            "nul": "nul",
            "undefined": "undefined",
            "plus": "+1",
            "leading-zero": "01",
            "leading-zero-minus": "-01",
            "minus": "-",
            "point-first": ".5",
            "point-last": "1.",
            "exponent-empty": "1e",
            "hexadecimal": "0x10",
            "underscore": "1_000",
            "digits-arabic": "\u0661",
        }.items()
    },
    **{
        f"escape-{name}": _escape(raw)
        for name, raw in {
            "x": r"\x41",
            "single-quote": r"\'",
            "upper-u": r"\U0041",
            "short": r"\u41",
            "letters": r"\u00g0",
            "sign": r"\u+041",
            "space": r"\u 041",
            "line-end": "\\\n",
        }.items()
    },
    **{
        f"control-{byte:02x}": (f"a raw U+{byte:04X} in a string", _string(bytes([byte])))
        for byte in (0x00, 0x08, 0x09, 0x0A, 0x0D, 0x1F)
    },
    "control-in-key": ("a raw line end in a member name", metadata('{"a\n":1}')),
}

DUPLICATE: Variants = {
    "tensors": ("two tensors of one name", _replaced(NAME, f'"tensors":{{"w":{W},"w"')),
    "tensors-escaped": (
        "two tensors of one name, one written with an escape",
        _replaced(NAME, f'"tensors":{{"\\u0077":{W},"w"'),
    ),
    "tensors-emoji": (
        "two tensors of one name, one written as an escaped surrogate pair",
        _replaced(NAME, f'"tensors":{{"\U0001f600":{W},"\\ud83d\\uDE00":{W},"w"'),
    ),
    "member": ("kind twice", _replaced('"kind":"weights"', '"kind":"weights","kind":"weights"')),
    "member-apart": ("tensors first and last", _raw(RAW[:-1] + b',"tensors":{}}')),
    "tensor-member": ("a dtype twice", _replaced('"dtype":', '"dtype":"bool","dtype":')),
    "storage-member": ("an offset twice", _replaced('"nbytes":24', '"nbytes":24,"nbytes":24')),
    "shard-member": ("a rank twice", _replaced('"rank":0', '"rank":0,"rank":0')),
    "metadata": ("a member of metadata twice", metadata('{"a":1,"b":2,"a":1}')),
    "metadata-deep": ("a member in an array in metadata twice", metadata('{"a":[{"b":1,"b":1}]}')),
    "metadata-empty": ("an empty member name twice", metadata('{"":1,"":2}')),
    "metadata-slash": ("a slash and an escaped slash", metadata('{"/":1,"\\/":1}')),
    "metadata-hex": ("one escape in upper and lower case", metadata('{"\\u00e9":1,"\\u00E9":1}')),
    "unknown": ("a member of an unknown member twice", _raw(RAW[:-1] + b',"x":{"a":1,"a":1}}')),
    "unknown-member": ("an unknown member twice", _raw(RAW[:-1] + b',"x":1,"x":1}')),
}

NUMBERS: Variants = {
    "fraction": _number("1.5"),
    "fraction-zero": _number("1.0"),
    "fraction-minus-zero": _number("-0.0"),
    "exponent": _number("1e3"),
    "exponent-upper": _number("1E3"),
    "exponent-plus": _number("1e+0"),
    "exponent-minus": _number("10e-1"),
    "exponent-huge": _number("1e400"),
    "exponent-zero": _number("0e0"),
    "2-53": _number(str(2**53)),
    "minus-2-53": _number(str(-(2**53))),
    "2-63": _number(str(2**63)),
    "2-64": _number(str(2**64)),
    "digits": ("a number of 5000 digits", metadata(f'{{"n":{"9" * 5000}}}')),
    "digits-minus": ("a number of 5000 digits below zero", metadata(f'{{"n":-{"1" * 5000}}}')),
    "in-array": ("a fraction in an array", metadata('{"n":[[1,2.5]]}')),
    "shape": ("a size of 2.0", _replaced('"shape":[2,3]', '"shape":[2.0,3]')),
    "offset": ("an offset of 0.0", _replaced('"nbytes":24', '"nbytes":24.0')),
    "offset-great": ("a size of 2^53", _replaced('"nbytes":24', f'"nbytes":{2**53}')),
    "unknown": ("a fraction in an unknown member", _raw(RAW[:-1] + b',"x":0.5}')),
}

DEPTH: Variants = {
    "arrays": ("arrays to level 33", metadata(f'{{"d":{_nested("[", "]", 31)}}}')),
    "objects": ("objects to level 33", metadata(_nested('{"":', "}", 32))),
    "empty": ("an empty array at level 33", metadata('{"d":' + "[" * 31 + "]" * 31 + "}")),
    "mixed": ("objects and arrays to level 33", metadata(_nested('{"":[', "]}", 16))),
    "unknown": (
        "arrays to level 33 in an unknown member",
        _raw(RAW[:-1] + f',"x":{_nested("[", "]", 32)}}}'.encode()),
    ),
    "20000-arrays": ("20000 arrays", metadata('{"d":' + "[" * 20000 + "]" * 20000 + "}")),
    "8000-objects": ("8000 objects", metadata(_nested('{"":', "}", 8000))),
}

UNICODE: Variants = {
    "high": ("a lone high surrogate", _string(rb"\ud83d")),
    "low": ("a lone low surrogate", _string(rb"\ude00")),
    "high-last": ("a high surrogate that ends a string", metadata(r'{"s":"\ud83d"}')),
    "high-letter": ("a high surrogate before another escape", _string(rb"\ud83d\u0041")),
    "high-line-end": ("a high surrogate before a short escape", _string(rb"\ud83d\n")),
    "reversed": ("a pair in the wrong order", _string(rb"\ude00\ud83d")),
    "high-high-low": ("a high surrogate before a pair", _string(rb"\ud83d\ud83d\ude00")),
    "high-low-low": ("a low surrogate after a pair", _string(rb"\ud83d\ude00\ude00")),
    "first": ("the first surrogate", _string(rb"\uD800")),
    "last": ("the last surrogate", _string(rb"\uDFFF")),
    "key": ("a lone surrogate in a member name", metadata(r'{"\udc00":1}')),
    "array": ("a lone surrogate in an array", metadata(r'{"a":["\udc00"]}')),
    "tensor-name": ("a lone surrogate in a tensor's name", _replaced(NAME, r'"tensors":{"\ud800"')),
    "kind": ("a lone surrogate in kind", _replaced('"weights"', r'"\ud800"')),
    "unknown": ("a lone surrogate in an unknown member", _raw(RAW[:-1] + rb',"x":"\udbff"}')),
}

CASES: list[Case] = [
    *invalid("JSON-1", "json-encoding", ENCODING),
    *invalid("JSON-2", "json-syntax", SYNTAX),
    *invalid("JSON-3", "json-duplicate-key", DUPLICATE),
    *invalid("JSON-4", "json-number", NUMBERS),
    *invalid("JSON-5", "json-depth", DEPTH),
    *invalid("JSON-6", "json-unicode", UNICODE),
]
