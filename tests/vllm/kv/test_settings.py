"""What the configuration of a connector may say, and what is refused in a line."""

from typing import Any

import pytest

from thaw.vllm.kv.settings import Settings


def test_what_is_left_out_is_plain() -> None:
    found = Settings.parse({"sessions": "./s"})
    assert found == Settings(sessions="./s", max_bytes=0, backend="auto", any_path=False)


def test_all_of_it_can_be_said() -> None:
    said = {"sessions": "/s", "max_bytes": 5, "backend": "reference", "any_path": True}
    assert Settings.parse(said) == Settings(**said)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (None, "needs a folder for sessions"),
        ([], "needs a folder for sessions"),
        ({}, "needs a folder for sessions"),
        ({"sessions": ""}, "needs a folder for sessions"),
        ({"sessions": None}, "'sessions' .* is None, expected a str"),
        ({"sessions": 5}, "'sessions' .* is 5, expected a str"),
        ({"sessions": "s", "session": "t"}, "does not know 'session' .* any_path, backend"),
        ({"sessions": "s", "max_bytes": "100GB"}, "'max_bytes' .* '100GB', expected a int"),
        ({"sessions": "s", "max_bytes": True}, "'max_bytes' .* True, expected a int"),
        ({"sessions": "s", "max_bytes": 1.5}, "'max_bytes' .* 1.5, expected a int"),
        ({"sessions": "s", "max_bytes": -1}, "'max_bytes' .* -1, expected 0 or more"),
        ({"sessions": "s", "any_path": "no"}, "'any_path' .* 'no', expected a bool"),
        ({"sessions": "s", "any_path": 1}, "'any_path' .* 1, expected a bool"),
    ],
)
def test_others_are_refused(extra: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Settings.parse(extra)
    assert "\n" not in str(caught.value)
