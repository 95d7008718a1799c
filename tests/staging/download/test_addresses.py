"""Downloads from addresses that attackers wrote: none but public ones are ever connected to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import pytest

from shared.errors import CodedError, ErrorCode, ImageRejected, WorldError
from shared.settings import DownloadLimits
from shared.staging.download import Downloader, by_turns, is_public
from tests.staging.download.parts import (
    BODY,
    MAX,
    PRIVATE,
    PUBLIC,
    PUBLIC_2,
    PUBLIC_V6,
    Server,
    Silent,
    answer,
    assert_refused,
    local,
    moved,
    on_internet,
    outcome,
)

# --- is_public

NOT_PUBLIC = """
0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.0.0.1 10.255.255.255 100.64.0.0 100.64.0.1 100.100.100.200 100.127.255.255
127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255 169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255
172.16.0.0 172.16.0.1 172.31.255.255 192.0.0.0 192.0.0.1 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.171
192.0.0.192 192.0.0.255 192.0.2.0 192.0.2.1 192.0.2.255 192.88.99.0 192.88.99.1 192.88.99.2 192.88.99.255
192.168.0.0 192.168.1.1 192.168.255.255 198.18.0.0 198.18.0.1 198.19.255.255 198.51.100.0 198.51.100.7 203.0.113.0
203.0.113.255 224.0.0.0 224.0.0.1 224.0.1.1 232.1.1.1 233.252.0.1 239.255.255.250 239.255.255.255 240.0.0.0 240.0.0.1
254.255.255.255 255.255.255.254 255.255.255.255
:: ::1 ::2 ::ffff ::127.0.0.1 ::8.8.8.8 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
::ffff:8.8.8.8 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 64:ff9b:: 64:ff9b::1 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::a9fe:a9fe
64:ff9b::808:808 64:ff9b:1:: 64:ff9b:1::1 64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100:: 100::1 100:0:0:1::1 2001:: 2001::1
2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:0:7f00:1:: 2001:1::1 2001:1::2 2001:1::3 2001:2:: 2001:2::1 2001:3::1
2001:4:112::1 2001:10::1 2001:1f:ffff::1 2001:20::1 2001:2f::1 2001:30::1 2001:db8:: 2001:db8::1
2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 2002:: 2002:7f00:1:: 2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1
2002:808:808::1 3fff::1 3fff:fff::1 4000::1 5f00::1 8000::1 fc00:: fc00::1 fd00::1 fd00:ec2::254
fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80:: fe80::1 fe80::a00:1 febf:ffff::1 fec0:: fec0::1 feff::1 ff00:: ff01::1
ff02::1 ff02::fb ff05::2 ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
fe80::1%eth0 fe80::1%1 fe80::1%25eth0 ::1%lo fc00::1%2 ff02::1%eth0 ::ffff:10.0.0.1%1
""".split()
TRULY_PUBLIC = """
1.0.0.1 1.1.1.1 8.8.8.8 9.9.9.9 11.0.0.1 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
142.250.1.1 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 191.255.255.255 192.0.1.1 192.0.3.1 192.88.98.1
192.88.100.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 198.51.99.1 198.51.101.1 203.0.112.1 203.0.114.1
223.255.255.255 2000::1 2001:200::1 2001:4860:4860::8888 2001:67c:2e8::1 2001:dc0::1 2003::1 2400:cb00::1 2606:4700::1111
2620:fe::fe 2800:3f0::1 2a00:1450::1 2a00:1450:4001::200e 2c0f:fb50::1
""".split()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public(address: str) -> None:
    assert is_public(address) is False


@pytest.mark.parametrize("address", TRULY_PUBLIC)
def test_an_address_that_is_public(address: str) -> None:
    assert is_public(address) is True


def test_no_address_wraps_a_private_ipv4_address() -> None:
    """Every way an IPv4 address is written inside an IPv6 one leads nowhere, wherever it points."""
    for inner in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.1.1", "8.8.8.8"):
        number = int(ipaddress.IPv4Address(inner))
        wrapped = [number, 0xFFFF << 32 | number, 0xFFFF << 48 | number, 0x64FF9B << 96 | number]
        wrapped += [0x64FF9B0001 << 80 | number, 0x2002 << 112 | number << 80, 0x2001 << 112 | (number ^ 0xFFFFFFFF)]
        for value in wrapped:
            assert not is_public(str(ipaddress.IPv6Address(value))), ipaddress.IPv6Address(value)


# --- addresses in the URL

LITERALS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0x7F.0.0.1", "0177.0.0.1",
    "127.0.0.01", "0", "0.0.0.0", "00000000.0.0.0", "127.0.0.1.", "10.0.0.1", "10.1", "167772161", "169.254.169.254",
    "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "0xA9.254.0xa9fe", "192.168.1.1", "100.64.0.1",
    "172.16.0.1", "224.0.0.1", "255.255.255.255", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]",
    "127。0。0。1", "127｡0｡0｡1", "①②⑦.0.0.1", "１２７.0.0.1", "127.0.0.1%00.photos.example", "①⑥⑨.②⑤④.①⑥⑨.②⑤④", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
]  # fmt: skip


@pytest.mark.parametrize("host", LITERALS)
def test_no_spelling_of_a_private_address_is_fetched(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Names are resolved by this very machine here, as in production; nothing may even be attempted."""
    for port in ("", ":80", ":22"):
        result = on_internet(monkeypatch, f"http://{host}{port}/latest/meta-data/", {})
        assert isinstance(result.value, CodedError), result.value
        assert not result.attempts


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost"],
)
def test_the_refusal_is_permanent_and_says_why(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    result = on_internet(monkeypatch, f"http://{host}/", {})
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)


def test_the_metadata_server_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metadata.google.internal", "metadata.google.internal.", "METADATA.google.internal", "metadata"):
        result = on_internet(monkeypatch, f"http://{name}/computeMetadata/v1/", {name.lower(): [["169.254.169.254"]]})
        assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
        assert not result.attempts


@pytest.mark.parametrize(
    "addresses", [[PUBLIC, PRIVATE], [PRIVATE, PUBLIC], [PUBLIC, "::1"], [PUBLIC] * 5 + ["127.0.0.1"]]
)
def test_a_name_with_a_public_and_a_private_address(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    result = on_internet(monkeypatch, "http://both.example/", {"both.example": [addresses]})
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert not result.attempts


def test_a_name_without_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    result = on_internet(monkeypatch, "http://none.example/", {"none.example": [[]]})
    assert isinstance(result.value, CodedError)
    assert not result.attempts


def test_a_name_that_does_not_resolve() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def work() -> object:
        downloader = Downloader(local(), MAX, unknown)
        try:
            return await downloader.fetch("http://nobody.example/")
        finally:
            await downloader.aclose()

    assert isinstance(outcome(work), WorldError | ImageRejected)


@pytest.mark.parametrize("host", ["a..b", "..", ".example", "a" * 64 + ".example", "a." * 200 + "example", "a" * 300])
def test_names_that_cannot_exist(host: str) -> None:
    """Asked of the real resolver, which finds out before it asks anyone, and says UnicodeError for some, not OSError."""

    async def work() -> object:
        downloader = Downloader(local(total_seconds=5.0), MAX)
        try:
            return await downloader.fetch(f"http://{host}/")
        finally:
            await downloader.aclose()

    assert isinstance(outcome(work), CodedError)


def test_dns_rebinding_between_check_and_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public at the first question, private at the second: there must be no second one."""
    inside = Server({"*": answer("200 OK", b"secret")})
    routes = {PUBLIC: Server({"*": answer()}), PRIVATE: inside, "127.0.0.1": inside}
    result = on_internet(
        monkeypatch, "http://rebind.example/", {"rebind.example": [[PUBLIC], [PRIVATE], ["127.0.0.1"]]}, routes
    )
    assert result.value == BODY
    assert result.asked == [("rebind.example", 80)]
    assert result.attempts == [(PUBLIC, 80)], "the connection goes to the address that was checked, not to the name"
    assert not inside.heads


def test_dns_rebinding_between_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"/": moved("/second"), "/second": answer("200 OK", b"secret")})
    routes = {PUBLIC: server, PRIVATE: server}
    result = on_internet(monkeypatch, "http://rebind.example/", {"rebind.example": [[PUBLIC], [PRIVATE]]}, routes)
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert result.attempts == [(PUBLIC, 80)]
    assert server.paths == ["/"]


def test_the_next_address_is_tried_when_the_first_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"photos.example": [[PUBLIC_V6, PUBLIC_2, PUBLIC]]}
    result = on_internet(monkeypatch, "http://photos.example:8080/", names)
    assert result.value == BODY
    assert sorted(result.attempts) == sorted([(PUBLIC_V6, 8080), (PUBLIC_2, 8080), (PUBLIC, 8080)])
    assert len(result.asked) == 1


V6 = [f"2606:4700::{number:x}" for number in range(2, 9)]
V4 = [f"93.184.216.{number}" for number in range(35, 42)]


@pytest.mark.parametrize("dead_v6", range(7))
@pytest.mark.parametrize("dead_v4", range(4))
@pytest.mark.parametrize("alive", [PUBLIC, PUBLIC_V6])
@pytest.mark.parametrize("v6_first", [True, False])
def test_a_living_address_is_found_among_dead_ones(
    monkeypatch: pytest.MonkeyPatch, dead_v6: int, dead_v4: int, alive: str, v6_first: bool
) -> None:
    """Whatever family the resolver puts first, and wherever the living one stands: here always last of its family."""
    v6, v4 = V6[:dead_v6], V4[:dead_v4]
    (v6 if ":" in alive else v4).append(alive)
    names = {"photos.example": [[*v6, *v4] if v6_first else [*v4, *v6]]}
    result = on_internet(monkeypatch, "http://photos.example:8080/", names, {alive: Server({"*": answer()})})
    assert result.value == BODY
    assert (alive, 8080) in result.attempts


def test_an_address_that_does_not_answer_at_all_is_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three addresses drop every packet: the fourth is asked after three quarters of a second, not after 30 s."""
    silent = {address: Silent() for address in V6[:3]}
    names = {"photos.example": [[*V6[:3], PUBLIC]]}
    limits = DownloadLimits(allow_http=True, total_seconds=5.0, connect_seconds=30.0)
    result = on_internet(
        monkeypatch, "http://photos.example:8080/", names, {**silent, PUBLIC: Server({"*": answer()})}, limits
    )
    assert result.value == BODY
    assert len(result.attempts) <= 4
    for server in silent.values():
        assert server.cancelled or not server.asked, "those who lost are let go of"


def test_one_private_address_among_many_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(7):
        addresses = [*V6[:3], *V4[:3]]
        addresses.insert(place, PRIVATE)
        result = on_internet(monkeypatch, "http://photos.example:8080/", {"photos.example": [addresses]})
        assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
        assert result.attempts == []


def test_addresses_are_asked_family_by_family_in_turns() -> None:
    assert by_turns(["a:", "b:", "c:", "1", "2"]) == ["a:", "1", "b:", "2", "c:"]
    assert by_turns(["1", "2", "a:"]) == ["1", "a:", "2"]
    assert by_turns([]) == []


def test_a_public_literal_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"*": answer()})
    result = on_internet(monkeypatch, f"http://[{PUBLIC_V6}]:8080/x", {}, {PUBLIC_V6: server})
    assert result.value == BODY
    assert server.hosts() == [f"[{PUBLIC_V6}]:8080"]
    assert on_internet(monkeypatch, f"http://{PUBLIC}/x", {}).value == BODY
