"""An image build gets this machine's settings of pip and uv."""

import tomllib

from tests.cluster.build_settings import pip_settings, uv_settings


def test_indexes_are_passed_on() -> None:
    assert "index-url = https://pip.example/simple" in pip_settings({"PIP_INDEX_URL": "https://pip.example/simple"})
    assert tomllib.loads(uv_settings({"UV_DEFAULT_INDEX": "https://uv.example/simple"})) == {
        "native-tls": True,
        "index": [{"url": "https://uv.example/simple", "default": True}],
    }


def test_defaults_stay_where_nothing_is_set() -> None:
    assert "index" not in pip_settings({"PIP_FIND_LINKS": "/somewhere"})
    assert tomllib.loads(uv_settings({})) == {"native-tls": True}
