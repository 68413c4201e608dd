"""Which addresses a client may make the worker ask."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from shepherd_config.outbound import is_public
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.media.policy import MediaPolicy, shown

INSIDE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "100.64.0.1", "169.254.169.254", "192.0.0.170", "198.18.0.1", "192.0.2.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254",
    "ff02::1", "fec0::1", "2001:db8::1", "100::1",
]  # fmt: skip
CARRYING = [
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::ffff:ffff",
]
OUTSIDE = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", [*INSIDE, *CARRYING])
def test_an_address_that_not_everybody_can_reach_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OUTSIDE)
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_ipv6_form_is_never_more_public_than_its_ipv4_address(
    address: ipaddress.IPv4Address,
) -> None:
    number = int(address)
    for prefix in ("::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "::"):
        form = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + number)
        assert not (is_public(form) and not is_public(address))
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) + (number << 80))) or is_public(
        address
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/a.png", "data:, https:"),
        ("file:///etc/passwd", "data:, https:"),
        ("ftp://example.com/a.png", "data:, https:"),
        ("gopher://127.0.0.1:6379/_x", "data:, https:"),
        ("a.png", "data:, https:"),
        ("https:///a.png", "with a host"),
        ("https://user:secret@example.com/", "without credentials"),
        ("https://127.0.0.1/", "public internet"),
        ("https://[::1]/", "public internet"),
        ("https://[fe80::1%25eth0]/", "public internet"),
        ("https://[64:ff9b::7f00:1]/", "public internet"),
        ("https://169.254.169.254/latest/meta-data/", "public internet"),
        ("https://127.1/", "public internet"),
        ("https://2130706433/", "public internet"),
        ("https://0177.0.0.1/", "public internet"),
        ("https://3232235777/", "public internet"),
    ],
)
def test_a_url_is_refused_before_dns_is_asked(url: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        MediaPolicy().check_url(URL(url))

    assert raised.value.field == "image_url"
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


def test_one_forbidden_address_among_good_ones_refuses_the_host() -> None:
    MediaPolicy().check_addresses("example.com", ["8.8.8.8", "2606:4700::1111"])

    with pytest.raises(InvalidRequestError, match=r"example\.com"):
        MediaPolicy().check_addresses("example.com", ["8.8.8.8", "10.0.0.1"])


@pytest.mark.parametrize("allowed", ["images.local", "10.0.0.7", "10.0.0.0/8"])
def test_a_host_that_the_operator_named_may_be_inside(allowed: str) -> None:
    policy = MediaPolicy(allowed_hosts=frozenset({allowed}))

    policy.check_addresses("images.local", ["10.0.0.7"])
    with pytest.raises(InvalidRequestError):
        policy.check_addresses("other.local", ["192.168.0.7"])


def test_an_error_repeats_no_query_and_no_data() -> None:
    assert shown("https://host/a.png?token=secret") == "https://host/a.png"
    assert shown("data:image/png;base64,AAAA") == "data:image/png;base64"
    assert len(shown("https://host/" + "a" * 500)) == 80
