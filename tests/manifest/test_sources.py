"""Addresses a manifest may name: what is hostile first, then what is allowed."""

from __future__ import annotations

import unicodedata
from posixpath import normpath
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.errors import BadSource
from shared.manifest.sources import SourceRules, resolve

FUZZ = settings(max_examples=120, deadline=None, database=None, derandomize=True)
CLOUD = SourceRules(base="gs://intake/manifests/acme/", gs_prefixes=("gs://crm/acme/", "gs://photos/"))
HERE = SourceRules(base="file:///srv/jobs/one/", folders=("/srv/photos", "/data/pics"))
BASES = [pytest.param(CLOUD, id="cloud"), pytest.param(HERE, id="local")]
SHY = SourceRules(base="")  # a manifest from nowhere: nothing but https


def refused(url: str, rules: SourceRules) -> BadSource:
    with pytest.raises(BadSource) as caught:
        resolve(url, rules)
    assert caught.value.reason
    assert caught.value.allowed, "a refusal says what would do"
    return caught.value


ESCAPES = [
    "..", "../x.jpg", "a/../../x.jpg", "a/../x.jpg", "./../x", "a/..", "%2e%2e/x.jpg", "%2E%2e/x.jpg", ".%2e/x.jpg",
    "%2e./x", "a/%2e%2e/%2e%2e/x.jpg", "..%2fx.jpg", "..%2Fx.jpg", "a%2f..%2f..%2fx", "a%2f%2e%2e%2fx", "..\\x.jpg",
    "a\\..\\..\\x.jpg", "a\\b.jpg", "a%5cb.jpg", "..%5cx.jpg", "..%5C..%5Cx", "\\\\host\\share\\x.jpg", "C:\\x.jpg",
    "C:/x.jpg", "c:x.jpg", "C%3a\\x.jpg", "\\x.jpg",
]  # fmt: skip


@pytest.mark.parametrize("rules", BASES)
@pytest.mark.parametrize("url", ESCAPES)
def test_a_path_cannot_leave_its_folder(url: str, rules: SourceRules) -> None:
    refused(url, rules)


@pytest.mark.parametrize("url", ["/etc/passwd", "//etc/passwd", "///etc/passwd", "//host/share/x.jpg", "/"])
@pytest.mark.parametrize("rules", BASES)
def test_absolute_paths_outside_the_folders_are_refused(url: str, rules: SourceRules) -> None:
    refused(url, rules)


@pytest.mark.parametrize("rules", BASES)
@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.example/a.jpg", "s3://bucket/a.jpg", "javascript://x/%0aalert(1)", "javascript:alert(1)",
        "data:image/png;base64,AAAA", "data://text/plain,x", "://x/a.jpg", "gopher://x/", "file://", "https:x.jpg",
        "memory://b/x", "blob:https://x/y", "mailto:a@b.example", "HtTp://x.example/a", "jar:file:///srv/photos/a!/b",
        "https+file:///srv/photos/a.jpg", " https://x.example/a", "\ufeffhttps://x.example/a.jpg",
    ],
)  # fmt: skip
def test_other_schemes_are_refused(url: str, rules: SourceRules) -> None:
    refused(url, rules)


def test_plain_http_only_when_allowed() -> None:
    assert "https" in refused("http://x.example/a.jpg", CLOUD).allowed
    loose = SourceRules(base="", allow_http=True)
    assert resolve("http://127.0.0.1:8000/a.jpg", loose) == "http://127.0.0.1:8000/a.jpg"


@pytest.mark.parametrize(
    "url",
    [
        "https://user@x.example/a", "https://user:pass@x.example/a", "https://:pass@x.example/a", "https://@x.example/",
        "https://x.example@evil.example/a", "https://a:b@[::1]/x", "https://a@b@c.example/",
    ],
)  # fmt: skip
def test_credentials_in_an_address_are_refused(url: str) -> None:
    error = refused(url, CLOUD)
    assert "password" in error.reason
    assert "pass@" not in error.reason + error.allowed, "a password must not travel into reports"


@pytest.mark.parametrize(
    "url",
    [
        "https://", "https:///a.jpg", "https://:443/a.jpg", "https://?x=1", "https://#x", "https://x.example:99999/a",
        "https://x.example:-1/a", "https://x.example:port/a", "https://x.example:" + "9" * 5000 + "/a",
        "https://[::1/a", "https://::1]/a", "https://[zz]/a", "https://[]/a",
        "https://exa\u2100mple.example/a",  # folds into "a/c" under NFKC
        "https://evil.example\uff0f.good.example/a", "https://evil.example\uff03@good.example/a",
    ],
)  # fmt: skip
def test_malformed_web_addresses_are_refused(url: str) -> None:
    refused(url, CLOUD)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://exa mple.example/a.jpg", id="space"),
        pytest.param("https://evil.example\\.good.example/a.jpg", id="backslash"),
        pytest.param("https://good.example\\@evil.example/a.jpg", id="backslash-at"),
        pytest.param("https://exa\u202emple.example/a.jpg", id="bidi"),
        pytest.param("https://[::1]x.example/a.jpg", id="after-bracket"),
        pytest.param("https://exa<mple>.example/a.jpg", id="angle"),
    ],
)
def test_a_host_holds_nothing_that_no_host_can_hold(url: str) -> None:
    """Readers of addresses disagree on where such a host ends, and none can reach it."""
    refused(url, CLOUD)


@pytest.mark.parametrize(
    "url",
    [
        "https://" + "x" * 4000 + "\u2100/", "https://x.example:" + "x" * 4000 + "/", "x" * 4000 + "://a",
        "https://[" + "z" * 4000 + "]/a", "gs://" + "x" * 4000, "../" + "x" * 4000, "https://" + "u" * 4000 + "@x/",
        "https://x.example:" + "9" * 5000 + "/",
    ],
    ids=["host", "port", "scheme", "ipv6", "bucket", "path", "user", "digits"],
)  # fmt: skip
def test_reasons_are_short(url: str) -> None:
    assert len(refused(url, CLOUD).reason) <= 200


@pytest.mark.parametrize("mark", ["\x1b[31m", "\x9b31m", "\u202e", "\u2066", "\u2028", "\x07", "\n"])
@pytest.mark.parametrize(
    "shape", ["https://{}\u2100/", "https://x:{}/", "{}://x/", "https://[{}]/", "gs://{}", "../{}", "/{}"]
)
def test_reasons_print_safely(shape: str, mark: str) -> None:
    reason = refused(shape.format(mark), CLOUD).reason
    assert mark not in reason
    assert reason.isprintable()


def test_reasons_are_for_customers_not_for_programmers() -> None:
    assert "sys." not in refused("https://x.example:" + "9" * 5000 + "/", CLOUD).reason


CONTROLS = [chr(code) for code in range(0x100) if unicodedata.category(chr(code)) == "Cc"]


@pytest.mark.parametrize("shape", ["https://x.example/a{}b.jpg", "a{}b.jpg", "gs://photos/a{}b.jpg", "{}a.jpg"])
def test_control_characters_are_refused(shape: str) -> None:
    accepted = []
    for control in CONTROLS:
        for rules in (CLOUD, HERE):
            try:
                accepted.append((control, resolve(shape.format(control), rules)))
            except BadSource:
                continue
    assert [ascii(control) for control, _ in accepted] == []


@pytest.mark.parametrize("url", ["", " ", " a.jpg", "a.jpg ", "\u00a0a.jpg", "a.jpg\u2028", "\n", "\ta.jpg"])
def test_empty_or_padded_addresses_are_refused(url: str) -> None:
    for rules in (CLOUD, HERE):
        refused(url, rules)


# --- gs://


@pytest.mark.parametrize(
    "url",
    [
        "gs://other/acme/a.jpg", "gs://crm/beta/a.jpg", "gs://crm/acme", "gs://crm/acme-evil/a.jpg",
        "gs://crm/acme/../beta/a.jpg", "gs://crm/acme/%2e%2e/beta/a.jpg", "gs://crm/acme/..%2fbeta/a.jpg",
        "gs://crm/acme/a/../../beta/a.jpg", "gs://crm/acme\\..\\beta", "gs://crm/acme/..", "gs://photos/../crm/acme/a",
        "gs://", "gs:///", "gs://crm", "gs://crm/", "gs://CRM/acme/a.jpg", "gs://user@crm/acme/a.jpg",
        "gs://crm:80/acme/a.jpg", "gs://photos-evil/a.jpg", "gs://crm/acme%2f..%2fbeta/a", "gs:/photos/a.jpg",
        "gs:photos/a.jpg", "gs://photos.evil/a.jpg",
    ],
)  # fmt: skip
def test_gs_stays_below_its_prefixes(url: str) -> None:
    refused(url, CLOUD)


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("gs://crm/acme", "gs://crm/acme-evil/a.jpg"), ("gs://crm/acme", "gs://crm/acme2/a.jpg"),
        ("gs://crm", "gs://crm-evil/a.jpg"), ("gs://crm", "gs://crm.evil.example/a.jpg"),
    ],
)  # fmt: skip
def test_a_prefix_ends_at_a_part(prefix: str, url: str) -> None:
    """`gs://bucket/prefix`, as the rules' own text writes it, must not open a neighbour that begins alike."""
    refused(url, SourceRules(base="", gs_prefixes=(prefix,)))


@pytest.mark.parametrize("prefix", ["gs://crm/acme", "gs://crm/acme/", "gs://crm", "gs://crm/"])
def test_a_prefix_with_or_without_a_slash_allows_what_is_below(prefix: str) -> None:
    url = "gs://crm/acme/flats/1 front.jpg"
    assert resolve(url, SourceRules(base="", gs_prefixes=(prefix,))) == url


def test_without_prefixes_no_gs_at_all() -> None:
    assert refused("gs://intake/manifests/acme/a.jpg", SourceRules(base="gs://intake/manifests/acme/")).allowed


def test_a_refused_bucket_names_the_allowed_ones() -> None:
    assert refused("gs://other/a.jpg", CLOUD).allowed == "gs://crm/acme/, gs://photos/"


# --- files of this machine


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "file:///srv/photos/../x", "file:///srv/photos/%2e%2e/x", "file:///srv/photos/..%2fx",
        "file:///srv/photos-secret/a.jpg", "file:///srv/photosx", "file:///srv", "file:////etc/passwd", "file://",
        "file:srv/photos/a.jpg", "file://localhost/etc/passwd", "/srv/photos/../x", "/srv/photos/a/../../x",
        "/srv/photos-secret/a.jpg", "/srv/photos/..", "/srv", "file:///%2e%2e/srv/photos/../x",
    ],
)  # fmt: skip
def test_files_outside_the_folders_are_refused(url: str) -> None:
    refused(url, HERE)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("file://[::1/srv/photos/a.jpg", id="unclosed-bracket"),
        pytest.param("file://[zz]/srv/photos/a.jpg", id="not-ipv6"),
        pytest.param("file://\u2100/srv/photos/a.jpg", id="nfkc"),
        pytest.param("file:///srv/photos/a%00b.jpg", id="nul"),
        pytest.param("file:///srv/photos/a%0ab.jpg", id="newline"),
        pytest.param("file://elsewhere/srv/photos/a.jpg", id="another-host"),
    ],
)
def test_malformed_file_addresses_are_refused(url: str) -> None:
    refused(url, HERE)


@pytest.mark.parametrize("url", ["file:///srv/photos/a.jpg", "/srv/photos/a.jpg", "/data/pics/a.jpg"])
def test_no_local_file_is_read_in_the_cloud(url: str) -> None:
    refused(url, CLOUD)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("/srv/photos/a.jpg", "file:///srv/photos/a.jpg"),
        ("/data/pics/x/y.heic", "file:///data/pics/x/y.heic"),
        ("file:///srv/photos/a.jpg", "file:///srv/photos/a.jpg"),
        ("file:///srv/photos/1%20front.jpg", "file:///srv/photos/1%20front.jpg"),
        ("/srv/photos/1 front.jpg", "file:///srv/photos/1%20front.jpg"),
        ("/srv/photos/100%.jpg", "file:///srv/photos/100%25.jpg"),
        ("/srv/photos/a?b#c.jpg", "file:///srv/photos/a%3Fb%23c.jpg"),
        ("/srv/photos/a..b.jpg", "file:///srv/photos/a..b.jpg"),
        ("/srv/photos/%2e%2e/x", "file:///srv/photos/%252e%252e/x"),
    ],
)
def test_files_in_the_folders_are_allowed(url: str, found: str) -> None:
    assert resolve(url, HERE) == found


# --- what is allowed


@pytest.mark.parametrize(
    "url",
    [
        "https://x.example/a.jpg", "https://x.example", "https://x.example:8443/a.jpg", "https://x.example:/a.jpg",
        "https://x.example/a.jpg?X-Sig=a%2Bb&e=1#f", "https://x.example/1 front.jpg", "https://[2001:db8::1]/a.jpg",
        "https://[2001:db8::1]:8443/a.jpg", "https://imóveis.example/sala/á.jpg", "https://x.example/../a.jpg",
        "https://x.example/a@b:c.jpg", "https://xn--nxasmq6b.example/a.jpg", "https://x.example/a//b.jpg",
    ],
)  # fmt: skip
def test_web_addresses_are_taken_as_they_are(url: str) -> None:
    for rules in (CLOUD, HERE, SHY):
        assert resolve(url, rules) == url


def test_a_web_addresss_scheme_may_be_in_capitals() -> None:
    """And is written small, for those that fetch tell addresses apart by it."""
    assert resolve("HTTPS://x.example/A.jpg", CLOUD) == "https://x.example/A.jpg"


@pytest.mark.parametrize("url", ["gs://crm/acme/a.jpg", "gs://photos/a b/c.jpg", "gs://photos/a%20b.jpg"])
def test_objects_below_a_prefix_are_taken_as_they_are(url: str) -> None:
    assert resolve(url, CLOUD) == url


@pytest.mark.parametrize(
    ("url", "cloud", "local"),
    [
        ("a.jpg", "a.jpg", "a.jpg"), ("./a.jpg", "a.jpg", "a.jpg"), ("x/y/z.jpg", "x/y/z.jpg", "x/y/z.jpg"),
        ("1 front.jpg", "1 front.jpg", "1%20front.jpg"), ("a%20b.jpg", "a%20b.jpg", "a%2520b.jpg"),
        ("a?b.jpg", "a?b.jpg", "a%3Fb.jpg"), ("a#b.jpg", "a#b.jpg", "a%23b.jpg"), ("á.jpg", "á.jpg", "%C3%A1.jpg"),
        ("..a/b..jpg", "..a/b..jpg", "..a/b..jpg"), ("...", "...", "..."), ("x/c:d.jpg", "x/c:d.jpg", "x/c%3Ad.jpg"),
        ("~root/a.jpg", "~root/a.jpg", "~root/a.jpg"), ("\uff0e\uff0e/x.jpg", "\uff0e\uff0e/x.jpg", None),
    ],
)  # fmt: skip
def test_paths_start_beside_the_manifest(url: str, cloud: str, local: str | None) -> None:
    assert resolve(url, CLOUD) == CLOUD.base + cloud
    if local is not None:
        assert resolve(url, HERE) == HERE.base + local


@pytest.mark.parametrize("rules", BASES)
@pytest.mark.parametrize("url", [".", "./", "././."])
def test_the_folder_itself_is_no_photo(url: str, rules: SourceRules) -> None:
    refused(url, rules)


def test_a_manifest_without_a_folder_takes_no_paths() -> None:
    assert "folder" in refused("a.jpg", SHY).reason


# --- anything at all

PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "%2e", "%2f", "%5c", "%", ":", "://", "https", "gs", "file", "a", " ", "@", "[", "]", "?",
     "#", "crm/acme/", "photos/", "srv/photos/", "\u2100", "\x00", "%00", "\uff0e", "é", "\n", "::1", "80"]
)  # fmt: skip
ADDRESSES = st.lists(PIECES, max_size=8).map("".join) | st.text(st.characters(), max_size=40)


@FUZZ
@given(ADDRESSES)
@example("file://[")
@example("https://[")
def test_any_text_is_an_address_or_a_refusal(url: str) -> None:
    for rules in (CLOUD, HERE, SHY):
        try:
            found = resolve(url, rules)
        except BadSource:
            continue
        assert found.partition("://")[0] in ("https", "gs", "file")
        if found.startswith("gs://"):
            assert found.startswith(("gs://intake/manifests/acme/", "gs://crm/acme/", "gs://photos/"))
            assert ".." not in unquote(found).split("/")
        if found.startswith("file://"):
            path = unquote(found.removeprefix("file://"))
            assert "\x00" not in path
            inside = (normpath(path) + "/").startswith(("/srv/jobs/one/", "/srv/photos/", "/data/pics/"))
            assert inside, path


@FUZZ
@given(st.lists(PIECES, max_size=6).map("".join))
def test_an_absolute_result_is_its_own_address(url: str) -> None:
    """What a web or gs address resolves to resolves to itself, as a replay from failed.csv needs."""
    try:
        found = resolve(url, CLOUD)
    except BadSource:
        return
    if found.startswith("https://") or url.startswith("gs://"):
        assert resolve(found, CLOUD) == found
